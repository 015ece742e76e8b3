"""What every classification loss has in common, tested on all of them."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from hyperfocal import losses
from hyperfocal.types import ConfigError, DataError

RATIO = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
RARE = torch.tensor([True, False, True, False, False])


def eql(x, y, **k):
    return losses.equalization_loss(x, y, RARE, **k)


def eqlv2(x, y, **k):
    return losses.equalization_loss_v2(x, y, RATIO, **k)


def eqlv2_focal(x, y, **k):
    return losses.equalization_loss_v2_focal(x, y, RATIO, **k)


def efl(x, y, **k):
    return losses.equalized_focal_loss(x, y, RATIO, **k)


def eqfl(x, y, **k):
    return losses.equalized_quality_focal_loss(x, y, RATIO, **k)


def hinge(x, y, **k):
    return losses.hinge_loss(x, y, margin=1.0, **k)


def seesaw(x, y, **k):
    return losses.seesaw_loss(x, y, torch.tensor([100, 10, 1, 0, 50]), **k)


SIGMOID = [
    losses.sigmoid_cross_entropy,
    losses.sigmoid_focal_loss,
    losses.focal_star_loss,
    hinge,
    losses.quality_focal_loss,
    losses.varifocal_loss,
    eql,
    eqlv2,
    eqlv2_focal,
    efl,
    eqfl,
]
SOFTMAX = [losses.softmax_focal_loss, seesaw]
GHM = [losses.ghm_classification_loss]

sigmoid_losses = pytest.mark.parametrize("loss", SIGMOID)
softmax_losses = pytest.mark.parametrize("loss", SOFTMAX)
all_losses = pytest.mark.parametrize("loss", SIGMOID + GHM + SOFTMAX)


def labels_for(loss, labels: torch.Tensor) -> torch.Tensor:
    """A softmax loss has no background: its rows go to category 0."""
    return torch.where(labels == 5, 0, labels) if loss in SOFTMAX else labels


def value_and_grad(loss, x, *args, **settings):
    x = x.detach().requires_grad_()
    value = loss(x, *args, **settings)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


@all_losses
def test_gradcheck(loss, some_logits, some_labels):
    labels = labels_for(loss, some_labels)
    x = some_logits.clone().requires_grad_()
    settings = {"q": 0} if loss is seesaw else {}  # its compensation depends on the logits
    assert gradcheck(lambda x: loss(x, labels, **settings), x)


@pytest.mark.parametrize("loss", SIGMOID + SOFTMAX)
def test_gradgradcheck(loss, some_logits, some_labels):
    labels = labels_for(loss, some_labels)
    x = some_logits.clone().requires_grad_()
    settings = {"q": 0} if loss is seesaw else {}
    assert gradgradcheck(lambda x: loss(x, labels, **settings), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@all_losses
def test_finite_at_every_logit(loss, hard_logits, dtype):
    n = len(hard_logits) // 5 * 5
    x = hard_logits[:n].reshape(-1, 5).to(dtype)
    x = torch.cat([x, x.flip(0), x[:, torch.tensor([3, 1, 4, 0, 2])]])
    x = torch.cat([x, torch.tensor([[1e4, -1e4, 1e4, 0, 0], [-1e4] * 5, [1e4] * 5]).to(dtype)])
    labels = labels_for(loss, torch.arange(len(x)) % 7 - 1)
    value, grad = value_and_grad(loss, x, labels)
    assert value.dtype == torch.float32
    assert grad.dtype == dtype
    assert torch.isfinite(value).all()
    assert torch.isfinite(grad).all()
    assert (value >= 0).all()


@pytest.mark.parametrize("loss", SIGMOID + SOFTMAX)
def test_float32_keeps_the_digits(loss, hard_logits):
    """The float64 values are held against formulas of their own elsewhere."""
    n = len(hard_logits) // 5 * 5
    x = torch.cat([hard_logits[:n].reshape(-1, 5), hard_logits[torch.randperm(n)].reshape(-1, 5)])
    x = torch.cat([x, torch.randn(2000, 5, generator=torch.Generator().manual_seed(2)) * 8])
    labels = labels_for(loss, torch.arange(len(x)) % 7 - 1)
    assert_same_digits(value_and_grad(loss, x, labels), value_and_grad(loss, x.double(), labels))


@pytest.mark.parametrize("loss", [losses.quality_focal_loss, losses.varifocal_loss, eqfl])
def test_float32_keeps_the_digits_where_the_probability_meets_the_quality(loss):
    q = torch.rand(4000, generator=torch.Generator().manual_seed(3)) * 0.98 + 0.01
    nearness = torch.logspace(-7, 0, 4000)[torch.randperm(4000)]
    x = torch.zeros(4000, 5)
    labels = torch.arange(4000) % 5
    x[torch.arange(4000), labels] = q.logit() + nearness * torch.where(q > 0.5, 1, -1)
    assert_same_digits(
        value_and_grad(loss, x, labels, quality=q),
        value_and_grad(loss, x.double(), labels, quality=q),
    )


def assert_same_digits(got, want):
    for single, double in zip(got, want, strict=True):
        # What underflows, on the way too, may be 0.
        torch.testing.assert_close(single.double(), double.double(), rtol=4e-6, atol=1e-37)


@all_losses
def test_ignored_rows_add_nothing(loss, some_logits, some_labels):
    labels = labels_for(loss, some_labels)
    ignored = labels == -1
    value, grad = value_and_grad(loss, some_logits, labels)
    assert (value[ignored] == 0).all()
    assert (grad[ignored] == 0).all()
    rest, rest_grad = value_and_grad(loss, some_logits[~ignored], labels[~ignored])
    torch.testing.assert_close(value[~ignored], rest)
    torch.testing.assert_close(grad[~ignored], rest_grad)
    torch.testing.assert_close(loss(some_logits, labels, reduction="mean"), rest.mean())


@all_losses
def test_reductions_weight_and_layout(loss, some_labels):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    labels = labels_for(loss, torch.randint(-1, 6, (2, 3, 4), generator=generator))
    weight = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64) + 0.1
    plain = loss(x, labels, weight=weight)
    unweighted = loss(x, labels)
    spread = weight if unweighted.shape == weight.shape else weight[..., None]
    torch.testing.assert_close(plain, unweighted * spread)
    torch.testing.assert_close(
        loss(x, labels, weight=weight, reduction="sum", normalizer=torch.tensor(3.0)),
        plain.sum() / 3,
    )
    for memory_format in (torch.contiguous_format, torch.channels_last):
        middle = x.movedim(-1, 1).contiguous(memory_format=memory_format)
        got = loss(middle, labels, weight=weight, channel_dim=1)
        want = plain if plain.ndim == 3 else plain.movedim(-1, 1)
        torch.testing.assert_close(got, want)
    strided = torch.stack([x, x], -1)[..., 0]
    torch.testing.assert_close(loss(strided, labels, weight=weight), plain)


@all_losses
def test_empty(loss):
    x = torch.zeros(0, 5, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.long)
    assert loss(x, labels).shape[0] == 0
    for reduction in ("sum", "mean"):
        total = loss(x, labels, reduction=reduction)
        (grad,) = torch.autograd.grad(total, x)
        assert total == 0
        assert grad.shape == x.shape


@all_losses
def test_nothing_but_ignored(loss):
    total, grad = value_and_grad(loss, torch.randn(3, 5), torch.full((3,), -1), reduction="mean")
    assert total == 0
    assert (grad == 0).all()


@sigmoid_losses
def test_labels_and_zeros_and_ones_agree(loss, some_logits, some_labels, one_hot):
    labels = some_labels.clamp(min=0)
    want = value_and_grad(loss, some_logits, labels)
    dense = one_hot(labels, 5)
    for targets in (dense, dense.long(), dense.bool()):
        torch.testing.assert_close(value_and_grad(loss, some_logits, targets), want)


@all_losses
def test_autocast_computes_in_float32(loss, some_logits, some_labels):
    x, labels = some_logits.bfloat16(), labels_for(loss, some_labels)
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = value_and_grad(loss, x, labels)
    want, want_grad = value_and_grad(loss, x.float(), labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, want)
    torch.testing.assert_close(grad, want_grad.bfloat16())


@pytest.mark.parametrize("loss", SIGMOID + SOFTMAX)
def test_functional_gradient(loss, some_logits, some_labels):
    labels = labels_for(loss, some_labels)
    _, want = value_and_grad(loss, some_logits, labels)
    got = torch.func.grad(lambda x: loss(x, labels).sum())(some_logits)
    torch.testing.assert_close(got, want)


@pytest.mark.slow
def test_all_compile_without_a_graph_break(some_logits, some_labels):
    x = some_logits.float()
    for loss in SIGMOID[2:] + GHM + SOFTMAX:  # the first two have a test of their own
        labels = labels_for(loss, some_labels)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(
            value_and_grad(compiled, x, labels), value_and_grad(loss, x, labels)
        )


@all_losses
def test_bad_input(loss):
    x, labels = torch.zeros(4, 5), torch.tensor([0, 1, 2, 3])
    with pytest.raises(DataError, match=r"\(3,\)"):
        loss(x, labels[:3])
    with pytest.raises(DataError, match="9"):
        loss(x, torch.tensor([0, 1, 2, 9]))
    with pytest.raises(DataError, match="-2"):
        loss(x, torch.tensor([0, 1, 2, -2]))
    with pytest.raises(DataError, match="float32"):
        loss(x, labels.float())
    with pytest.raises(DataError, match="weight"):
        loss(x, labels, weight=torch.ones(2))
    with pytest.raises(ConfigError, match="median"):
        loss(x, labels, reduction="median")
    with pytest.raises(ConfigError, match="normalizer"):
        loss(x, labels, reduction="sum", normalizer=-1.0)
    with pytest.raises(ValueError, match="channel_dim"):
        loss(x, labels, channel_dim=7)


@softmax_losses
def test_softmax_losses_refuse_dense_targets(loss):
    with pytest.raises(DataError, match="integer labels"):
        loss(torch.zeros(4, 5), torch.zeros(4, 5))
    with pytest.raises(DataError, match="5"):
        loss(torch.zeros(1, 5), torch.tensor([5]))
