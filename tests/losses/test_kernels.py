"""The fused pass on the CPU against the plain forms and 50-digit references."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from hyperfocal.losses import (
    EqualizationLossV2Focal,
    EqualizedFocalLoss,
    EqualizedQualityFocalLoss,
    QualityFocalLoss,
    SigmoidFocalLoss,
    equalization_loss_v2_focal,
    equalized_focal_loss,
    equalized_quality_focal_loss,
    quality_focal_loss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
)
from hyperfocal.losses.kernels import SMALLEST, cpu, function
from hyperfocal.losses.kernels.function import Problem, solve
from hyperfocal.types import ConfigError, DataError

pytestmark = pytest.mark.skipif(not cpu.available(), reason="no C++ compiler")

GAMMAS = [0.0, 0.1, 0.5, 1.0, 2.0, 3.7, 5.0, 10.0]
TOLERANCE = {torch.float32: 8e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Of two results that are each exact to 4e-6, and to half a unit in the last place."""


def draw(
    n: int, k: int, dtype: torch.dtype = torch.float32, spread: float = 4.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits, and labels with every category, background and ignored rows among them."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(n, k, generator=generator) * spread - 2).to(dtype)
    return logits, torch.randint(-1, k + 1, (n,), generator=generator)


def value_and_grad(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = loss(x)
    (grad,) = torch.autograd.grad(value, x)
    return value.detach(), grad


def assert_same(loss: Callable[..., Tensor], x: Tensor, *args: Tensor) -> None:
    """Fused and plain sums of ``loss``, and their gradients, agree to the dtype's precision."""
    total = partial(loss, reduction="sum")
    want, want_grad = value_and_grad(lambda x: total(x, *args, backend="plain"), x)
    got, grad = value_and_grad(lambda x: total(x, *args, backend="fused"), x)
    assert got.dtype == want.dtype == torch.float32
    assert grad.dtype == x.dtype
    assert grad.shape == x.shape
    torch.testing.assert_close(got, want, rtol=8e-6, atol=0)
    least = torch.finfo(x.dtype).tiny
    torch.testing.assert_close(grad, want_grad, rtol=TOLERANCE[x.dtype], atol=4 * least)


def assert_exact(loss: Callable[..., Tensor], x: Tensor, *args: Tensor, rtol: float = 4e-6) -> None:
    """The fused sum of ``loss``, and its gradient, agree with the plain form in float64."""
    total = partial(loss, reduction="sum")
    want, want_grad = value_and_grad(lambda x: total(x, *args, backend="plain"), x.double())
    got, grad = value_and_grad(lambda x: total(x, *args, backend="fused"), x)
    torch.testing.assert_close(got.double(), want, rtol=rtol, atol=0)
    torch.testing.assert_close(grad.double(), want_grad, rtol=rtol, atol=1e-37)


# ---------------------------------------------------------------- accuracy


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_value_and_gradient_to_4e_6(exact, hard_logits, gamma, positive):
    gamma = torch.tensor(gamma).item()
    label = torch.full((1,), 0 if positive else 1)
    problem = Problem(label, torch.tensor([[gamma], [1.0], [1.0]]), background=1)
    sign = 1 if positive else -1
    values, grads = [], []
    for x in hard_logits:
        grad = torch.empty(1, 1)
        values.append(solve(x.reshape(1, 1), problem, grad).loss)
        grads.append(grad.squeeze())
    true = [exact.focal(sign * x, gamma) for x in hard_logits.tolist()]
    assert exact.worst_error(torch.stack(values), [v for v, _ in true]) <= 4e-6
    assert exact.worst_error(torch.stack(grads), [sign * d for _, d in true]) <= 4e-6


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("gamma", GAMMAS)
def test_finite_at_extreme_logits(gamma, dtype):
    x = torch.tensor([-1e4, -60000.0, -100, -1, 0, 1, 100, 1e4]).to(dtype).repeat(3, 1)
    labels = torch.tensor([0, 7, 8])
    value, grad = value_and_grad(
        lambda x: sigmoid_focal_loss(x, labels, gamma=gamma, reduction="sum", backend="fused"), x
    )
    assert torch.isfinite(value)
    assert torch.isfinite(grad).all()


def test_not_a_number_is_not_hidden():
    x, labels = draw(10, 5)
    x[3, 2] = torch.nan
    labels[3] = 5
    value, grad = value_and_grad(
        lambda x: sigmoid_focal_loss(x, labels, reduction="sum", backend="fused"), x
    )
    assert value.isnan()
    assert grad[3, 2].isnan()
    assert grad.isnan().sum() == 1


def test_a_sum_of_millions_keeps_its_digits():
    x = torch.full((100_000, 80), -4.6)
    labels = torch.full((100_000,), 80)
    value = sigmoid_cross_entropy(x, labels, reduction="sum", backend="fused")
    true = torch.nn.functional.softplus(x[0, 0].double()) * x.numel()
    assert abs(value.double() / true - 1) < 1e-6


# ---------------------------------------------------------------- against the plain forms


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    "shape", [(1, 1), (5000, 1), (777, 7), (1000, 80), (40, 1203), (3, 5000), (20_000, 3)]
)
def test_focal_in_every_shape_and_dtype(shape, dtype):
    assert_same(sigmoid_focal_loss, *draw(*shape, dtype))


@pytest.mark.parametrize("alpha", [None, 0.25, torch.linspace(0, 1, 11)])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, torch.linspace(0, 10, 11)])
def test_settings_per_category(alpha, gamma):
    x, labels = draw(500, 11)
    assert_same(partial(sigmoid_focal_loss, alpha=alpha, gamma=gamma), x, labels)
    assert_same(partial(sigmoid_focal_loss, alpha=alpha, gamma=gamma), x.bfloat16(), labels)
    assert_same(partial(sigmoid_cross_entropy, alpha=alpha), x, labels)


@pytest.mark.parametrize("normalizer", [7.0, torch.tensor(7.0), torch.tensor([7])])
def test_normalizer(normalizer):
    assert_same(partial(sigmoid_focal_loss, normalizer=normalizer), *draw(300, 20))


def test_equalized_losses():
    x, labels = draw(400, 30)
    ratio, quality = torch.linspace(0, 1, 30), torch.rand(400)
    assert_same(equalized_focal_loss, x, labels, ratio)
    assert_same(equalization_loss_v2_focal, x, labels, ratio * 2)
    # γ_j is computed in float32 here, and its rounding shows in p^γ_j.
    loss = partial(equalized_quality_focal_loss, quality=quality)
    assert_exact(loss, x, labels, ratio, rtol=2e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, 5.0])
def test_quality_focal_loss(beta):
    x, labels = draw(1000, 20)
    assert_exact(partial(quality_focal_loss, beta=beta, quality=torch.rand(1000)), x, labels)
    extremes = (torch.arange(1000) % 2).float()
    assert_exact(partial(quality_focal_loss, beta=beta, quality=extremes), x, labels)
    assert_exact(partial(quality_focal_loss, beta=beta), x, labels)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 3:-2],
        lambda x: x[::2, 1:],
        lambda x: x.T.contiguous().T,
        lambda x: x.expand(2, *x.shape),
        lambda x: x.reshape(10, 4, -1).transpose(0, 1),
    ],
)
def test_strided_logits(view):
    x = view(draw(40, 30)[0])
    labels = torch.randint(-1, x.shape[-1] + 1, x.shape[:-1])
    assert_same(sigmoid_focal_loss, x, labels)


def test_channels_in_the_middle():
    x = torch.randn(2, 5, 6, 7)
    labels = torch.randint(-1, 6, (2, 6, 7))
    assert_same(partial(sigmoid_focal_loss, channel_dim=1), x, labels)
    assert_same(
        partial(sigmoid_focal_loss, channel_dim=1), x.to(memory_format=torch.channels_last), labels
    )


def test_labels_of_any_integer_dtype():
    x, labels = draw(100, 5)
    assert_same(sigmoid_focal_loss, x, labels.to(torch.int8))
    assert_same(sigmoid_focal_loss, x, labels.to(torch.int32)[None].expand(1, -1)[0])


def test_all_rows_ignored_or_background():
    x, _ = draw(100, 5)
    ignored, background = torch.full((100,), -1), torch.full((100,), 5)
    value, grad = value_and_grad(
        lambda x: sigmoid_focal_loss(x, ignored, reduction="sum", backend="fused"), x
    )
    assert value == 0
    assert (grad == 0).all()
    assert_same(sigmoid_focal_loss, x, background)


# ---------------------------------------------------------------- losses with memory


@pytest.mark.parametrize(
    "make",
    [
        lambda k, backend: EqualizedFocalLoss(k, backend=backend),
        lambda k, backend: EqualizationLossV2Focal(k, backend=backend),
        lambda k, backend: EqualizedQualityFocalLoss(k, backend=backend),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_statistics_over_steps(make, dtype):
    plain, fused = make(40, "plain"), make(40, "fused")
    for step in range(3):
        x, labels = draw(600, 40, dtype, seed=step)
        want, want_grad = value_and_grad(lambda x, y=labels: plain(x, y, 7.0), x)
        got, grad = value_and_grad(lambda x, y=labels: fused(x, y, 7.0), x)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=0)
        torch.testing.assert_close(grad, want_grad, rtol=max(1e-4, TOLERANCE[dtype]), atol=1e-30)
        torch.testing.assert_close(fused.pending_pos, plain.pending_pos, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(fused.pending_neg, plain.pending_neg, rtol=1e-5, atol=1e-9)
        plain.step()
        fused.step()
        torch.testing.assert_close(fused.ratio, plain.ratio, rtol=1e-5, atol=1e-7)


def test_statistics_without_a_gradient_and_not_in_evaluation():
    loss = EqualizedFocalLoss(5, backend="fused")
    with torch.no_grad():
        loss(*draw(100, 5))
    assert (loss.pending_neg > 0).all()
    pending = loss.pending_neg.clone()
    loss.eval()(*draw(100, 5))
    assert loss.pending_neg.equal(pending)


def test_scale_zero_is_focal_loss_to_the_last_bit():
    x, labels = draw(300, 20)
    efl, focal = EqualizedFocalLoss(20, scale=0, backend="fused"), SigmoidFocalLoss(backend="fused")
    value, grad = value_and_grad(lambda x: efl(x, labels, 3.0), x)
    want, want_grad = value_and_grad(lambda x: focal(x, labels, 3.0), x)
    assert value.equal(want)
    assert grad.equal(want_grad)


def test_gamma_zero_is_cross_entropy_to_the_last_bit():
    x, labels = draw(300, 20)
    focal = partial(sigmoid_focal_loss, alpha=None, gamma=0.0, reduction="sum", backend="fused")
    value, grad = value_and_grad(lambda x: focal(x, labels), x)
    want, want_grad = value_and_grad(
        lambda x: sigmoid_cross_entropy(x, labels, reduction="sum", backend="fused"), x
    )
    assert value.equal(want)
    assert grad.equal(want_grad)


# ---------------------------------------------------------------- determinism and autograd


@pytest.mark.parametrize("k", [3, 80, 1203])
def test_the_number_of_threads_changes_no_bit(k):
    x, labels = draw(400_000 // k, k)

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        loss = EqualizedFocalLoss(k, backend="fused")
        loss.ratio.copy_(torch.linspace(0, 1, k))
        value, grad = value_and_grad(lambda x: loss(x, labels), x)
        return [value, grad, loss.pending_pos, loss.pending_neg]

    for a, b in zip(run(1), run(2), strict=True):
        assert a.equal(b)


def test_gradient_is_scaled_by_what_comes_from_above():
    x, labels = draw(100, 5)
    loss = partial(sigmoid_focal_loss, targets=labels, reduction="sum", backend="fused")
    _, grad = value_and_grad(loss, x)
    _, scaled = value_and_grad(lambda x: -3 * loss(x), x)
    torch.testing.assert_close(scaled, -3 * grad)


def test_float16_gradients_survive_loss_scaling():
    x, labels = draw(200, 80, torch.float16)
    plain = partial(sigmoid_focal_loss, targets=labels, reduction="sum", normalizer=1e4)
    _, want = value_and_grad(lambda x: 65536 * plain(x, backend="plain"), x.float())
    _, grad = value_and_grad(lambda x: 65536 * plain(x, backend="fused"), x)
    kept = want.abs() > 1e-4  # float16's normal numbers, after scaling
    torch.testing.assert_close(grad.float()[kept], want[kept], rtol=2e-3, atol=0)
    assert (want[kept].abs() / 65536 < 6e-8).any()  # which unscaled would have been 0


def test_two_backward_passes():
    x, labels = draw(100, 5)
    x.requires_grad_()
    loss = sigmoid_focal_loss(x, labels, reduction="sum", backend="fused")
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    first.mul_(5)  # the caller may change it in place
    (second,) = torch.autograd.grad(loss, x)
    assert second.equal(kept)


def test_a_change_in_place_between_forward_and_backward_is_noticed():
    x, labels = draw(100, 5)
    y = x.requires_grad_() * 1
    loss = sigmoid_focal_loss(y, labels, reduction="sum", backend="fused")
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivative_says_what_to_do():
    x, labels = draw(100, 5)
    x.requires_grad_()
    loss = sigmoid_focal_loss(x, labels, reduction="sum", backend="fused")
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='plain'"):
        grad.square().sum().backward()


def test_no_gradient_tensor_without_need():
    x, labels = draw(100, 5)
    value = sigmoid_focal_loss(x, labels, reduction="sum", backend="fused")
    assert not value.requires_grad
    want = sigmoid_focal_loss(x, labels, reduction="sum", backend="plain")
    torch.testing.assert_close(value, want)


def test_no_gradient_is_computed_under_no_grad(monkeypatch):
    asked = []

    def spy(x, problem, grad):
        asked.append(grad is not None)
        return solve(x, problem, grad)

    monkeypatch.setattr(function, "solve", spy)
    x, labels = draw(100, 5)
    x.requires_grad_()
    with torch.no_grad():
        sigmoid_focal_loss(x, labels, reduction="sum", backend="fused")
    sigmoid_focal_loss(x, labels, reduction="sum", backend="fused")
    assert asked == [False, True]


# ---------------------------------------------------------------- who is served


def is_fused(value: Tensor) -> bool:
    node = value.grad_fn
    while node is not None and "FusedSum" not in type(node).__name__:
        node = node.next_functions[0][0] if node.next_functions else None
    return node is not None


def test_auto_takes_the_fused_pass_for_large_sums_over_labels():
    x, labels = draw(SMALLEST // 10 + 1, 10)
    x.requires_grad_()
    loss = partial(sigmoid_focal_loss, x, labels)
    assert is_fused(loss(reduction="sum"))
    assert not is_fused(loss(reduction="sum", backend="plain"))
    assert not is_fused(loss(reduction="mean"))
    assert not is_fused(loss(reduction="sum", weight=torch.ones(len(x))))
    assert not is_fused(sigmoid_focal_loss(x[:9], labels[:9], reduction="sum"))
    assert not is_fused(sigmoid_focal_loss(x.double(), labels, reduction="sum"))
    assert not is_fused(sigmoid_focal_loss(x, torch.zeros_like(x), reduction="sum"))
    assert is_fused(QualityFocalLoss()(x, labels, 2.0, quality=torch.rand(len(x))))
    z = torch.tensor(2.0, requires_grad=True)
    loss(reduction="sum", normalizer=z).backward()
    assert z.grad is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction": "mean"}, "reduction = 'sum'"),
        ({"weight": torch.ones(9)}, "weight = None"),
        ({"logits": torch.zeros(9, 5, dtype=torch.float64)}, "float32"),
        ({"targets": torch.zeros(9, 5)}, "integer labels"),
        ({"backend": "fast"}, "one of auto, plain, fused"),
    ],
)
def test_fused_or_an_error(change, message):
    arguments = {
        "logits": torch.zeros(9, 5),
        "targets": torch.zeros(9, dtype=torch.long),
        "reduction": "sum",
        "backend": "fused",
    }
    with pytest.raises(ConfigError, match=message):
        sigmoid_focal_loss(**{**arguments, **change})


def test_transforms_and_the_compiler_get_the_plain_form():
    x, labels = draw(SMALLEST // 10 + 1, 10)
    total = partial(sigmoid_focal_loss, targets=labels, reduction="sum")
    _, want = value_and_grad(lambda x: total(x, backend="plain"), x)
    assert torch.func.grad(total)(x).equal(want)
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(value_and_grad(compiled, x)[1], want)


@pytest.mark.parametrize("bad", [-2, 6])
def test_impossible_labels(bad):
    x, labels = draw(100, 5)
    labels[77] = bad
    with pytest.raises(DataError, match=f"contain {bad}"):
        sigmoid_focal_loss(x, labels, reduction="sum", backend="fused")


@pytest.mark.parametrize("quality", [torch.full((100,), 1.5), torch.zeros(99)])
def test_impossible_quality(quality):
    x, labels = draw(100, 5)
    labels[0] = 2
    with pytest.raises(DataError, match="quality"):
        quality_focal_loss(x, labels, quality=quality, reduction="sum", backend="fused")


def test_under_autocast():
    layer, x = torch.nn.Linear(8, 20), torch.randn(300, 8)
    labels = torch.randint(-1, 21, (300,))
    grads = []
    for backend in ("plain", "fused"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = sigmoid_focal_loss(layer(x), labels, reduction="sum", backend=backend)
        grads.append(torch.autograd.grad(loss, layer.weight)[0])
    torch.testing.assert_close(grads[1], grads[0], rtol=2e-2, atol=2e-2)
