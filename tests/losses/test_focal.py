"""Sigmoid cross entropy and focal loss: identities, accuracy, gradients, layouts, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision.ops
from fvcore.nn import sigmoid_focal_loss as fvcore_focal
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from hyperfocal.losses import (
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
)
from hyperfocal.types import ConfigError, DataError

GAMMAS = [0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0]


def value_and_grad(loss, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = loss(x)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


# ---------------------------------------------------------------- exactness


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_float32_value_and_gradient_to_4e_6(exact, hard_logits, gamma, positive):
    targets = torch.full_like(hard_logits, positive, dtype=torch.long)
    value, grad = value_and_grad(
        lambda x: sigmoid_focal_loss(x, targets, alpha=None, gamma=gamma), hard_logits
    )
    sign = 1 if positive else -1
    true = [exact.focal(sign * x, gamma) for x in hard_logits.tolist()]
    assert exact.worst_error(value, [v for v, _ in true]) <= 4e-6
    assert exact.worst_error(grad, [sign * d for _, d in true]) <= 4e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_extreme_logits_are_finite_and_half_is_computed_in_float32(hard_logits, gamma, dtype):
    x = hard_logits.to(dtype)
    for positive in (0, 1):
        targets = torch.full(x.shape, positive)
        value, grad = value_and_grad(lambda x, t=targets: sigmoid_focal_loss(x, t, gamma=gamma), x)
        assert value.dtype == torch.float32
        assert grad.dtype == dtype
        assert torch.isfinite(value).all()
        assert torch.isfinite(grad).all()
        wide, wide_grad = value_and_grad(
            lambda x, t=targets: sigmoid_focal_loss(x, t, gamma=gamma), x.float()
        )
        assert value.equal(wide)
        assert grad.equal(wide_grad.to(dtype))


def test_gamma_zero_is_cross_entropy_to_the_last_bit(hard_logits):
    x = hard_logits.reshape(-1, 3)
    labels = torch.arange(len(x)) % 5 - 1
    for alpha in (None, 0.25, 0.75):
        focal = value_and_grad(
            lambda x, a=alpha: sigmoid_focal_loss(x, labels, alpha=a, gamma=0), x
        )
        ce = value_and_grad(lambda x, a=alpha: sigmoid_cross_entropy(x, labels, alpha=a), x)
        assert focal[0].equal(ce[0])
        assert focal[1].equal(ce[1])


def test_golden_numbers():
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.long)
    assert sigmoid_cross_entropy(zero, one).item() == pytest.approx(0.693147, abs=1e-6)
    assert sigmoid_focal_loss(zero, one, alpha=None).item() == pytest.approx(0.173287, abs=1e-6)
    slopes = {0.5: -0.476086, 1: -0.423287, 2: -0.298287, 5: -0.069777}
    for gamma, slope in slopes.items():
        _, grad = value_and_grad(
            lambda x, g=gamma: sigmoid_focal_loss(x, one, alpha=None, gamma=g), zero
        )
        assert grad.item() == pytest.approx(slope, abs=1e-6)
    _, grad = value_and_grad(lambda x: sigmoid_focal_loss(x, one, alpha=None), zero + 3)
    assert grad.item() == pytest.approx(-0.000315, abs=1e-6)


def test_sums_over_an_image_of_easy_negatives():
    for prior, want in ((0.5, 5.545e6), (0.01, 8.040e4)):
        x = torch.full((100_000, 80), math.log(prior / (1 - prior)))
        background = torch.full((100_000,), 80)
        total = sigmoid_cross_entropy(x, background, reduction="sum")
        assert total.item() == pytest.approx(want, rel=1e-3)
    total = sigmoid_focal_loss(x, background, reduction="sum")
    assert total.item() == pytest.approx(6.03, abs=0.005)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_gradient_is_the_papers_eq_10_and_not_the_articles(gamma):
    """A web article prints the second term of the derivative with the wrong sign."""
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    one = torch.ones(13, dtype=torch.long)

    def loss(x: Tensor) -> Tensor:
        return sigmoid_focal_loss(x, one, alpha=None, gamma=gamma)

    _, grad = value_and_grad(loss, x)
    p = torch.sigmoid(x)
    paper = (1 - p) ** gamma * (gamma * p * p.log() + p - 1)
    article = (1 - p) ** gamma * (p - 1) + gamma * (1 - p) ** (gamma - 1) * p * p.log() * (p - 1)
    numeric = (loss(x + 1e-6) - loss(x - 1e-6)) / 2e-6
    torch.testing.assert_close(grad, paper)
    torch.testing.assert_close(grad, numeric, atol=1e-8, rtol=1e-6)
    assert ((article - numeric).abs() > 1e-3).any()
    if gamma == 2:
        assert article[6].item() == pytest.approx(0.048287, abs=1e-6)  # pushes p_t down
        assert numeric[6].item() == pytest.approx(-0.298287, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradcheck_and_gradgradcheck(some_logits, some_labels, gamma):
    x = some_logits.clone().requires_grad_()
    soft = torch.rand(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for targets in (some_labels, soft):
        for loss in (
            lambda x, t=targets: sigmoid_focal_loss(x, t, gamma=gamma),
            lambda x, t=targets: sigmoid_cross_entropy(x, t, alpha=0.3),
        ):
            assert gradcheck(loss, x)
            assert gradgradcheck(loss, x)


# ---------------------------------------------------------------- agreement with others


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_agrees_with_torchvision_and_fvcore(some_logits, some_labels, one_hot, alpha, gamma):
    labels = some_labels.clamp(min=0)
    dense, some_logits = one_hot(labels, 5).float(), some_logits.float()  # fvcore is float32 only
    theirs_alpha = -1 if alpha is None else alpha
    for targets in (labels, dense):
        ours = value_and_grad(
            lambda x, t=targets: sigmoid_focal_loss(x, t, alpha=alpha, gamma=gamma), some_logits
        )
        for their_loss in (torchvision.ops.sigmoid_focal_loss, fvcore_focal):
            theirs = value_and_grad(
                lambda x, f=their_loss: f(x, dense, alpha=theirs_alpha, gamma=gamma), some_logits
            )
            torch.testing.assert_close(ours[0], theirs[0])
            torch.testing.assert_close(ours[1], theirs[1])


# ---------------------------------------------------------------- targets


def test_labels_one_hot_floats_bools_and_integers_agree(some_logits, some_labels, one_hot):
    labels = some_labels.clamp(min=0)
    dense = one_hot(labels, 5)
    want = value_and_grad(lambda x: sigmoid_focal_loss(x, labels), some_logits)
    for targets in (dense, dense.float(), dense.long(), dense.bool(), dense.to(torch.uint8)):
        got = value_and_grad(lambda x, t=targets: sigmoid_focal_loss(x, t), some_logits)
        torch.testing.assert_close(got, want, atol=0, rtol=1e-12)


def test_ignored_rows_add_nothing(some_logits, some_labels):
    ignored = some_labels == -1
    value, grad = value_and_grad(lambda x: sigmoid_focal_loss(x, some_labels), some_logits)
    assert (value[ignored] == 0).all()
    assert (grad[ignored] == 0).all()
    rest = sigmoid_focal_loss(some_logits[~ignored], some_labels[~ignored])
    torch.testing.assert_close(value[~ignored], rest, atol=0, rtol=1e-12)
    mean = sigmoid_focal_loss(some_logits, some_labels, reduction="mean")
    torch.testing.assert_close(mean, rest.mean())


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 4)])
def test_binary_logits_take_zeros_and_ones(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    y = torch.randint(0, 2, shape, generator=generator)
    want = torchvision.ops.sigmoid_focal_loss(x, y.float())
    torch.testing.assert_close(sigmoid_focal_loss(x, y), want)
    torch.testing.assert_close(sigmoid_focal_loss(x, y, reduction="mean"), want.mean())


def test_ignored_elements_of_integer_targets():
    x = torch.tensor([0.0, 1.0, 2.0])
    value = sigmoid_cross_entropy(x, torch.tensor([1, -1, 0]))
    assert value[1] == 0
    assert sigmoid_cross_entropy(x, torch.tensor([1, -1, 0]), reduction="mean") == value.sum() / 2


def test_soft_targets_give_the_expected_loss(some_logits):
    q = torch.full_like(some_logits, 0.3)
    zero, one = torch.zeros_like(some_logits), torch.ones_like(some_logits)
    mixed = 0.3 * sigmoid_focal_loss(some_logits, one) + 0.7 * sigmoid_focal_loss(some_logits, zero)
    torch.testing.assert_close(sigmoid_focal_loss(some_logits, q), mixed)
    torch.testing.assert_close(
        sigmoid_cross_entropy(some_logits, q),
        torch.nn.functional.binary_cross_entropy_with_logits(some_logits, q, reduction="none"),
    )


def test_settings_per_category(some_logits, some_labels):
    alpha = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    gamma = torch.tensor([0.0, 0.5, 1.0, 2.0, 5.0])
    whole = sigmoid_focal_loss(some_logits, some_labels, alpha=alpha, gamma=gamma)
    for j in range(5):
        one = sigmoid_focal_loss(
            some_logits[:, j],
            torch.where(some_labels < 0, -1, (some_labels == j).long()),
            alpha=alpha[j].item(),
            gamma=gamma[j].item(),
        )
        torch.testing.assert_close(whole[:, j], one)


# ---------------------------------------------------------------- layouts and reductions


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_categories_in_the_middle(memory_format):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, 3, 5, generator=generator).contiguous(memory_format=memory_format)
    labels = torch.randint(-1, 5, (2, 3, 5), generator=generator)
    rows = torch.rand(2, 3, 5, generator=generator)
    elements = torch.rand(2, 4, 3, 5, generator=generator)
    last = x.movedim(1, -1).contiguous()
    for weight, weight_last in ((rows, rows), (elements, elements.movedim(1, -1))):
        got = sigmoid_focal_loss(x, labels, weight=weight, channel_dim=1)
        want = sigmoid_focal_loss(last, labels, weight=weight_last)
        assert got.shape == x.shape
        # Not equal to the bit: torch's vector and scalar code round differently, and which of
        # them an element meets depends on the layout and on the processor.
        torch.testing.assert_close(got.movedim(1, -1), want, rtol=8e-6, atol=0)
    total = sigmoid_focal_loss(x, labels, channel_dim=1, reduction="sum", normalizer=7)
    torch.testing.assert_close(
        total, sigmoid_focal_loss(last, labels, reduction="sum", normalizer=7)
    )


def test_non_contiguous_logits(some_logits, some_labels):
    strided = torch.stack([some_logits, some_logits], -1)[..., 0]
    assert not strided.is_contiguous()
    got, want = (sigmoid_focal_loss(x, some_labels) for x in (strided, some_logits))
    torch.testing.assert_close(got, want, atol=0, rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4)])
def test_empty(shape):
    x = torch.zeros(shape, requires_grad=True)
    labels = torch.zeros(shape[:-1], dtype=torch.long)
    assert sigmoid_focal_loss(x, labels).shape == shape
    for reduction in ("sum", "mean"):
        total = sigmoid_focal_loss(x, labels, reduction=reduction)
        (grad,) = torch.autograd.grad(total, x)
        assert total == 0
        assert grad.shape == shape


def test_no_positives_and_nothing_but_ignored():
    x = torch.randn(6, 3, requires_grad=True)
    negatives = sigmoid_focal_loss(x, torch.full((6,), 3))
    assert negatives.equal(sigmoid_focal_loss(x, torch.zeros(6, 3)))
    total = sigmoid_focal_loss(x, torch.full((6,), -1), reduction="mean")
    (grad,) = torch.autograd.grad(total, x)
    assert total == 0
    assert (grad == 0).all()


def test_weight_and_normalizer(some_logits, some_labels):
    plain = sigmoid_focal_loss(some_logits, some_labels)
    rows = torch.rand(12)
    elements = torch.rand(12, 5)
    torch.testing.assert_close(
        sigmoid_focal_loss(some_logits, some_labels, weight=rows), plain * rows[:, None]
    )
    torch.testing.assert_close(
        sigmoid_focal_loss(some_logits, some_labels, weight=elements), plain * elements
    )
    for normalizer in (4, 4.0, torch.tensor(4), torch.tensor([4.0])):
        total = sigmoid_focal_loss(some_logits, some_labels, reduction="sum", normalizer=normalizer)
        assert total.shape == ()
        torch.testing.assert_close(total, plain.sum() / 4)


@pytest.mark.parametrize("kept", [torch.tensor([0, 1, 1]), torch.tensor([2, -1, -1])])
def test_functional_transforms(kept):
    x = torch.randn(3, 2, dtype=torch.float64)

    def total(x: Tensor, labels: Tensor) -> Tensor:
        return sigmoid_focal_loss(x, labels, reduction="sum")

    leaf = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(total(leaf, kept), leaf)
    torch.testing.assert_close(torch.func.grad(total)(x, kept), want)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(x, kept), want)


def test_autocast_computes_in_float32(some_logits, some_labels):
    x = some_logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = sigmoid_focal_loss(x, some_labels)
    assert value.dtype == torch.float32
    assert value.equal(sigmoid_focal_loss(x.float(), some_labels))


@pytest.mark.slow
def test_compiles_without_a_graph_break(some_logits, some_labels):
    x = some_logits.float()
    for loss in (SigmoidFocalLoss(), SigmoidCrossEntropyLoss(0.5)):
        compiled = torch.compile(loss, fullgraph=True)
        want = value_and_grad(lambda x, f=loss: f(x, some_labels, torch.tensor(3.0)), x)
        got = value_and_grad(lambda x, f=compiled: f(x, some_labels, torch.tensor(3.0)), x)
        torch.testing.assert_close(got, want)


# ---------------------------------------------------------------- modules and errors


def test_modules_are_their_functions(some_logits, some_labels):
    focal = SigmoidFocalLoss.Config(alpha=0.4, gamma=1.5).build(num_classes=5)
    assert focal(some_logits, some_labels, 3.0).equal(
        sigmoid_focal_loss(
            some_logits, some_labels, alpha=0.4, gamma=1.5, reduction="sum", normalizer=3.0
        )
    )
    ce = SigmoidCrossEntropyLoss.Config(alpha=0.75).build(num_classes=5)
    assert ce(some_logits, some_labels).equal(
        sigmoid_cross_entropy(some_logits, some_labels, alpha=0.75, reduction="sum")
    )


X = torch.zeros(4, 3)
LABELS = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1, 2, 4]), "4"),
        (torch.tensor([0, 1, 2, -2]), "-2"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0]), "float32"),
        (torch.tensor([0, 1, 2]), r"\(3,\)"),
        (torch.ones(4, dtype=torch.bool), "bool"),
        (torch.full((4, 3), 1.5), "1.5"),
        (torch.full((4, 3), float("nan")), "nan"),
        (torch.full((4, 3), 2), "2"),
    ],
)
def test_bad_targets_are_named(targets, message):
    with pytest.raises(DataError, match=message):
        sigmoid_focal_loss(X, targets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": -1.0}, "gamma = -1.0"),
        ({"gamma": float("nan")}, "gamma = nan"),
        ({"gamma": torch.tensor([1.0, 2.0, -3.0])}, "-3"),
        ({"gamma": torch.ones(3, requires_grad=True)}, "gradient"),
        ({"alpha": 1.5}, "alpha = 1.5"),
        ({"alpha": -1}, "alpha = -1"),
        ({"alpha": torch.zeros(4)}, r"\(4,\)"),
        ({"reduction": "avg"}, "avg"),
        ({"reduction": "sum", "normalizer": 0}, "normalizer = 0"),
        ({"reduction": "sum", "normalizer": -2.0}, "normalizer = -2.0"),
        ({"reduction": "sum", "normalizer": torch.ones(4)}, r"\(4,\)"),
        ({"reduction": "mean", "normalizer": 2.0}, "mean"),
        ({"channel_dim": 2}, "channel_dim = 2"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        sigmoid_focal_loss(X, LABELS, **settings)


def test_other_bad_input():
    with pytest.raises(DataError, match="int64"):
        sigmoid_focal_loss(LABELS, LABELS)
    with pytest.raises(DataError, match="weight"):
        sigmoid_focal_loss(X, LABELS, weight=torch.ones(3))
    with pytest.raises(ConfigError, match="gamma"):
        SigmoidFocalLoss.Config(gamma=-1)
    with pytest.raises(ConfigError, match="alpha"):
        SigmoidCrossEntropyLoss.Config(alpha=2)
