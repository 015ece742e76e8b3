"""What every classification loss has in common, tested on all of them.

They are found through their role, `ClassificationLossConfig`, and functions by the arguments that
all functions share. A new loss is tested here as soon as `hyperfocal.losses` exports it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import pytest
import torch
from tests.components import LOSSES, build_loss, each_loss, kind_of
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from hyperfocal import losses
from hyperfocal.types import ConfigError, DataError

CONVENTION = {"logits", "targets", "weight", "reduction", "normalizer", "channel_dim"}
"""Arguments of every function of a classification loss."""
STATE = {
    "ratio": torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0]),
    "rare": torch.tensor([True, False, True, False, False]),
    "counts": torch.tensor([100, 10, 1, 0, 50]),
}
"""Values for the arguments that only some functions require. A function that requires another one
is skipped here; its module is tested all the same."""
WITHOUT_KINK = {"hinge_loss": {"margin": 1.0}}
"""Settings that have the loss smooth at every logit."""
DIFFERENTIABLE = {"seesaw_loss": {"q": 0}}
"""Settings without a factor of the logits that the gradient takes for a constant."""

Loss = Callable[..., Tensor]


def parameters(function: Loss) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def required(function: Loss) -> set[str]:
    """Arguments without a default, beside logits and targets."""
    found = {n for n, p in parameters(function).items() if p.default is p.empty}
    return found - {"logits", "targets"}


def with_state(function: Loss) -> Loss:
    """The function of logits and targets alone, with the values of `STATE`."""
    given = {name: STATE[name] for name in required(function)}
    given |= WITHOUT_KINK.get(function.__name__, {})

    @functools.wraps(function)
    def loss(x: Tensor, y: Tensor, **settings: object) -> Tensor:
        return function(x, y, **given, **settings)

    return loss


EXPORTED = [getattr(losses, name) for name in losses.__all__]
FUNCTIONS = [f for f in EXPORTED if inspect.isfunction(f) and parameters(f).keys() >= CONVENTION]
TESTED = [f for f in FUNCTIONS if required(f) <= STATE.keys()]
ROLE_OF = {config.__module__: config for config in LOSSES}
"""The detectors' losses by their file; the others are softmax losses."""

SIGMOID = [with_state(f) for f in TESTED if f.__module__ in ROLE_OF]
SOFTMAX = [with_state(f) for f in TESTED if f.__module__ not in ROLE_OF]
GHM = [f for f in SIGMOID if not ROLE_OF[f.__module__].adds_up]  # bins make steps
SIGMOID = [f for f in SIGMOID if f not in GHM]


def each(*functions: Loss) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("loss", functions, ids=lambda f: f.__name__)


sigmoid_losses = each(*SIGMOID)
softmax_losses = each(*SOFTMAX)
smooth_losses = each(*SIGMOID, *SOFTMAX)
quality_losses = each(*(f for f in SIGMOID if "quality" in parameters(f)))
all_losses = each(*SIGMOID, *GHM, *SOFTMAX)


def test_all_losses_are_found() -> None:
    """At least those that existed when this was written."""
    assert len(LOSSES) >= 13
    assert (len(SIGMOID), len(SOFTMAX), len(GHM)) >= (11, 2, 1)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_every_function_is_tested(function: Loss) -> None:
    if unknown := required(function) - STATE.keys():
        pytest.skip(f"STATE has no value for its arguments {unknown}")
    names = [f.__name__ for f in SIGMOID + SOFTMAX + GHM]
    assert names.count(function.__name__) == 1


def labels_for(loss, labels: torch.Tensor) -> torch.Tensor:
    """A softmax loss has no background: its rows go to category 0."""
    return torch.where(labels == 5, 0, labels) if loss in SOFTMAX else labels


def differentiable(loss: Loss) -> dict[str, object]:
    return DIFFERENTIABLE.get(loss.__name__, {})


def value_and_grad(loss, x, *args, **settings):
    x = x.detach().requires_grad_()
    value = loss(x, *args, **settings)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


@all_losses
def test_gradcheck(loss, some_logits, some_labels):
    labels = labels_for(loss, some_labels)
    x = some_logits.clone().requires_grad_()
    settings = differentiable(loss)
    assert gradcheck(lambda x: loss(x, labels, **settings), x)


@smooth_losses
def test_gradgradcheck(loss, some_logits, some_labels):
    labels = labels_for(loss, some_labels)
    x = some_logits.clone().requires_grad_()
    settings = differentiable(loss)
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


@smooth_losses
def test_float32_keeps_the_digits(loss, hard_logits):
    """The float64 values are held against formulas of their own elsewhere."""
    n = len(hard_logits) // 5 * 5
    x = torch.cat([hard_logits[:n].reshape(-1, 5), hard_logits[torch.randperm(n)].reshape(-1, 5)])
    x = torch.cat([x, torch.randn(2000, 5, generator=torch.Generator().manual_seed(2)) * 8])
    labels = labels_for(loss, torch.arange(len(x)) % 7 - 1)
    assert_same_digits(value_and_grad(loss, x, labels), value_and_grad(loss, x.double(), labels))


@quality_losses
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


@smooth_losses
def test_functional_gradient(loss, some_logits, some_labels):
    labels = labels_for(loss, some_labels)
    _, want = value_and_grad(loss, some_logits, labels)
    got = torch.func.grad(lambda x: loss(x, labels).sum())(some_logits)
    torch.testing.assert_close(got, want)


@pytest.mark.slow
@all_losses
def test_compiles_without_a_graph_break(loss, some_logits, some_labels):
    torch.compiler.reset()
    x, labels = some_logits.float(), labels_for(loss, some_labels)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(value_and_grad(compiled, x, labels), value_and_grad(loss, x, labels))


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


# --------------------------------------------------------------------------- modules


class Rows:
    """Twelve rows for a module: logits, labels with background and ignored, and quality."""

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        self.logits, self.labels = logits.float(), labels
        self.quality = torch.linspace(0, 1, len(labels))

    def value(self, loss: nn.Module, rows: Tensor | slice = slice(None), **more) -> Tensor:
        if isinstance(loss, losses.QualityLoss):
            more["quality"] = self.quality[rows]
        return loss(self.logits[rows], self.labels[rows], more.pop("normalizer", 1.0), **more)


@pytest.fixture
def rows(some_logits, some_labels) -> Rows:
    return Rows(some_logits, some_labels)


@each_loss
def test_a_module_ignores_rows(config, rows):
    whole = rows.value(build_loss(config, 5))
    assert whole.shape == ()
    assert whole > 0
    kept = torch.where(rows.labels >= 0)[0]
    torch.testing.assert_close(rows.value(build_loss(config, 5), kept), whole)


@each_loss
def test_a_module_does_not_depend_on_the_order_or_shape_of_rows(config, rows):
    whole = rows.value(build_loss(config, 5))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rows.value(build_loss(config, 5), order), whole)
    rows.logits, rows.labels = rows.logits.view(3, 4, 5), rows.labels.view(3, 4)
    rows.quality = rows.quality.view(3, 4)
    torch.testing.assert_close(rows.value(build_loss(config, 5)), whole)


@pytest.mark.parametrize("config", [c for c in LOSSES if c.adds_up], ids=kind_of)
def test_a_module_that_adds_up_is_a_sum_over_the_normalizer(config, rows):
    whole = rows.value(build_loss(config, 5))
    parts = [rows.value(build_loss(config, 5), part) for part in (slice(5), slice(5, None))]
    torch.testing.assert_close(sum(parts), whole)
    four = rows.value(build_loss(config, 5), normalizer=torch.tensor(4.0))
    torch.testing.assert_close(four, whole / 4)


@each_loss
def test_a_module_computes_half_precision_in_float32(config, rows):
    rows.logits = rows.logits.bfloat16().requires_grad_()
    value = rows.value(build_loss(config, 5))
    assert value.dtype == torch.float32
    (grad,) = torch.autograd.grad(value, rows.logits)
    assert grad.dtype == torch.bfloat16
    rows.logits = rows.logits.detach().float().requires_grad_()
    exact = rows.value(build_loss(config, 5))
    torch.testing.assert_close(value, exact)
    torch.testing.assert_close(grad, torch.autograd.grad(exact, rows.logits)[0].bfloat16())


@each_loss
def test_a_module_of_no_rows_is_zero(config, rows):
    rows.logits.requires_grad_()
    for none in (slice(0), torch.where(rows.labels < 0)[0]):
        value = rows.value(build_loss(config, 5), none)
        (grad,) = torch.autograd.grad(value, rows.logits)
        assert value == 0
        assert (grad == 0).all()


@each_loss
def test_the_state_of_a_module_is_saved_whole(config, rows):
    trained, other = build_loss(config, 5), build_loss(config, 5)
    for _ in range(2):
        rows.value(trained)
        losses.step_losses(trained)
    other.load_state_dict(trained.state_dict())
    torch.testing.assert_close(rows.value(other), rows.value(trained))
