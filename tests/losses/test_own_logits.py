"""Losses with logits of their own: their number, scores and initial biases, found by role."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from tests.components import ALL_LOSSES, LOSSES, OWN_LOGITS, build_loss, kind_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import hyperfocal
from hyperfocal.config import kinds, override
from hyperfocal.losses import (
    BalancedGroupSoftmaxLoss,
    ClassBalancedSoftmax,
    ClassificationLossConfig,
    EqualizationLossV2,
    LossWithMemory,
    LossWithOwnLogits,
    SeesawLoss,
    SoftmaxCrossEntropyLoss,
    SoftmaxFocalClassifierLoss,
    category_logits,
    class_balanced_weights,
    class_scores,
    initial_bias,
    num_logits,
    softmax_focal_loss,
    step_losses,
)
from hyperfocal.models import Backbone, DetectorConfig, RetinaNet
from hyperfocal.recipes import load_recipe
from hyperfocal.types import ConfigError, DataError

K = 5
VARIANTS = [
    *((config, {}) for config in OWN_LOGITS),
    (SeesawLoss.Config, {"objectness": False}),
    (EqualizationLossV2.Config, {"objectness": True}),
]
each_variant = pytest.mark.parametrize(
    ("config", "settings"), VARIANTS, ids=lambda v: v.kind if isinstance(v, type) else str(v)
)
each_of_all = pytest.mark.parametrize("config", ALL_LOSSES, ids=kind_of)


def rows(loss: nn.Module, n: int = 64, scale: float = 2.0, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    width = num_logits(loss, K)
    return scale * torch.randn(n, width, generator=generator, dtype=dtype)


def labels(n: int = 64) -> Tensor:
    """All categories, background and ignored rows."""
    return torch.arange(n) % (K + 2) - 1


def call(loss: nn.Module, x: Tensor, y: Tensor, normalizer: float = 1.0) -> Tensor:
    """The loss with the same random rows in every call (BAGS samples them)."""
    torch.manual_seed(0)
    value: Tensor = loss(x, y, normalizer)
    return value


def softmaxes(loss: nn.Module) -> list[list[int]]:
    """Categories that are compared with each other: those of a group of BAGS, else all."""
    if isinstance(loss, BalancedGroupSoftmaxLoss):
        return [list(members) for members in loss.groups.columns]
    return [list(range(K))]


@each_of_all
def test_the_config_declares_what_the_module_is(config: type[ClassificationLossConfig]) -> None:
    loss = build_loss(config, K)
    assert isinstance(loss, LossWithOwnLogits) == config().has_own_logits


@each_of_all
def test_each_category_has_a_logit_of_its_own(config: type[ClassificationLossConfig]) -> None:
    loss = build_loss(config, K)
    columns = category_logits(loss, K)
    assert len(set(columns)) == K
    assert 0 <= min(columns) <= max(columns) < num_logits(loss, K)


@each_variant
def test_scores_are_probabilities_that_rise_with_the_own_logit(config, settings) -> None:
    loss = build_loss(config, K, **settings)
    x = rows(loss)
    scores = class_scores(loss, x)
    assert scores.shape == (64, K)
    assert scores.dtype == torch.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    for category, column in enumerate(category_logits(loss, K)):
        more = x.clone()
        more[:, column] += 0.5
        assert (class_scores(loss, more)[:, category] > scores[:, category]).all()
    for members in softmaxes(loss):
        columns = torch.tensor(category_logits(loss, K))[members]
        assert torch.equal(scores[:, members].argsort(), x[:, columns].argsort())
    half = class_scores(loss, x.bfloat16())
    assert half.dtype == torch.float32
    nested = class_scores(loss, x.view(4, 16, -1))
    torch.testing.assert_close(nested.view(64, K), scores)


@each_variant
def test_training_raises_the_score_of_the_label(config, settings) -> None:
    loss = build_loss(config, K, **settings)
    y = labels()
    x = rows(loss).requires_grad_()
    before = class_scores(loss, x.detach())
    for _ in range(30):
        (gradient,) = torch.autograd.grad(call(loss, x, y), x)
        x = (x - 0.5 * gradient).detach().requires_grad_()
    after = class_scores(loss, x.detach())
    objects = (y >= 0) & (y < K)
    index = y[objects][:, None]
    assert (after[objects].gather(1, index) >= before[objects].gather(1, index) - 1e-3).all()
    assert after[objects].gather(1, index).mean() > before[objects].gather(1, index).mean() + 0.1
    assert (after[y == K].sum(-1) < before[y == K].sum(-1)).all()
    assert torch.equal(after[y == -1], before[y == -1])


@each_variant
@pytest.mark.parametrize("prior", [0.001, 0.01, 0.5])
def test_the_initial_bias_gives_objects_their_probability(config, settings, prior) -> None:
    loss = build_loss(config, K, **settings)
    bias = initial_bias(loss, K, prior)
    assert bias.shape == (num_logits(loss, K),)
    scores = class_scores(loss, bias.double())
    if isinstance(loss, EqualizationLossV2):  # K sigmoids times that of an object
        assert float((-bias[-1]).sigmoid()) == pytest.approx(prior)
        assert scores.tolist() == pytest.approx([prior**2] * K)
    elif isinstance(loss, BalancedGroupSoftmaxLoss):
        assert float(bias[:2].softmax(-1)[1]) == pytest.approx(prior)
        sizes = [len(loss.groups.columns[group]) for group in loss.groups.group_of]
        # A category shares its group's probability with the others and with "others".
        assert scores.tolist() == pytest.approx([prior / (size + 1) for size in sizes])
    else:
        assert scores.tolist() == pytest.approx([prior / K] * K)


def test_sigmoids_are_the_default() -> None:
    loss = build_loss(LOSSES[0], K)
    x = torch.randn(3, K)
    torch.testing.assert_close(class_scores(nn.Identity(), x), x.sigmoid())
    assert num_logits(loss, K) == K
    assert initial_bias(loss, K, 0.01).sigmoid().tolist() == pytest.approx([0.01] * K)


@each_variant
def test_gradients_are_those_of_finite_differences(config, settings) -> None:
    loss = build_loss(config, K, **settings).eval()
    if hasattr(loss, "q"):
        loss.q = 0.0  # the compensation is a factor that the gradient takes for a constant
    x = rows(loss, 14, 1.0, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: call(loss, x, labels(14), 3.0), x)


@each_variant
def test_extreme_logits_are_finite(config, settings) -> None:
    loss = build_loss(config, K, **settings)
    for size in (1e4, 1e30):
        x = (rows(loss).sign() * size).requires_grad_()
        value = call(loss, x, labels())
        (gradient,) = torch.autograd.grad(value, x)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert class_scores(loss, x).isfinite().all()


@each_variant
def test_nothing_to_learn_is_zero(config, settings) -> None:
    loss = build_loss(config, K, **settings)
    for x, y in ((rows(loss, 0), labels(0)), (rows(loss, 4), torch.full((4,), -1))):
        x.requires_grad_()
        value = call(loss, x, y)
        (gradient,) = torch.autograd.grad(value, x)
        assert value == 0
        assert (gradient == 0).all()


@each_variant
def test_wrong_numbers_of_logits_are_refused(config, settings) -> None:
    loss = build_loss(config, K, **settings)
    wrong = torch.zeros(3, num_logits(loss, K) + 2)
    with pytest.raises((DataError, ConfigError)):
        call(loss, wrong, torch.tensor([0, K, K]))


@each_variant
def test_the_normalizer_divides_and_the_parts_of_a_step_add_up(config, settings) -> None:
    loss = build_loss(config, K, **settings)
    x, y = rows(loss), labels()
    call(loss, x.flip(0), y)
    step_losses(loss)  # the statistics of a step that isn't this one
    kept = int((y >= 0).sum())
    whole = call(copy.deepcopy(loss), x, y, kept)
    torch.testing.assert_close(call(copy.deepcopy(loss), x, y, 2 * kept), whole / 2)
    if not config.adds_up:
        return  # means over a call's rows
    parts = copy.deepcopy(loss)
    halves = [call(parts, x[part], y[part], kept) for part in (slice(0, 30), slice(30, 64))]
    torch.testing.assert_close(sum(halves), whole)
    step_losses(parts)
    call(loss, x, y, kept)
    step_losses(loss)
    assert parts.state_dict().keys() == loss.state_dict().keys()
    for name, value in parts.state_dict().items():
        torch.testing.assert_close(value, loss.state_dict()[name])


@each_variant
def test_state_is_saved_and_steps_once(config, settings) -> None:
    loss = build_loss(config, K, **settings)
    call(loss, rows(loss), labels())
    again = build_loss(config, K, **settings)
    again.load_state_dict(loss.state_dict())
    for one in (loss, again):
        if isinstance(one, LossWithMemory):
            one.step()
    x = rows(loss, 8)
    torch.testing.assert_close(call(again.eval(), x, labels(8)), call(loss.eval(), x, labels(8)))


def test_softmax_cross_entropy_is_torchs() -> None:
    loss = SoftmaxCrossEntropyLoss(K)
    x, y = rows(loss, dtype=torch.float64), labels()
    want = cross_entropy(x, y, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(loss(x, y, 4.0), want / 4)
    scores = class_scores(loss, x)
    torch.testing.assert_close(scores, x.softmax(-1)[:, :K])


def test_class_balanced_softmax_weighs_rows_by_their_label() -> None:
    loss = build_loss(ClassBalancedSoftmax, K, beta=0.99)
    x, y = rows(loss, dtype=torch.float64), labels()
    images = [100 // 4**n + 1 for n in range(K)]
    weights = class_balanced_weights([2 * n for n in images], 0.99).double()
    weights = torch.cat([weights, torch.ones(1, dtype=torch.float64)])
    want = cross_entropy(x, y, weight=weights, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(loss(x, y), want)


def test_softmax_focal_weighs_the_background_by_one_minus_alpha() -> None:
    loss = SoftmaxFocalClassifierLoss(K, alpha=0.3, gamma=1.5)
    x, y = rows(loss, dtype=torch.float64), labels()
    z = torch.tensor([0.3] * K + [0.7], dtype=torch.float64)
    want = softmax_focal_loss(x, y, alpha=z, gamma=1.5, reduction="sum", normalizer=7.0)
    torch.testing.assert_close(loss(x, y, 7.0), want)


def test_the_objectness_of_eqlv2_is_a_binary_cross_entropy_of_the_background() -> None:
    loss = build_loss(EqualizationLossV2.Config, K, objectness=True)
    plain = build_loss(EqualizationLossV2.Config, K)
    x, y = rows(loss, dtype=torch.float64), labels()
    kept = y >= 0
    background = nn.functional.binary_cross_entropy_with_logits(
        x[kept, K], (y[kept] == K).double(), reduction="sum"
    )
    torch.testing.assert_close(loss(x, y), plain(x[:, :K], y) + background)
    own = one_hot(y.clamp(min=0), K + 1)[:, :K].bool() & kept[:, None]
    assert (loss.pending_pos > 0).tolist() == own.any(0).tolist()


def test_eqlv2_has_its_objectness_where_the_classifier_follows_the_loss() -> None:
    open_, without = EqualizationLossV2.Config(), EqualizationLossV2.Config(objectness=False)
    assert num_logits(build_loss(EqualizationLossV2.Config, K), K) == K
    assert num_logits(open_.with_own_logits().build(K), K) == K + 1
    assert num_logits(without.with_own_logits().build(K), K) == K
    for config in ALL_LOSSES:
        if config is not EqualizationLossV2.Config:
            assert config().with_own_logits() == config()


def test_bags_uses_a_calls_share_of_the_rows() -> None:
    loss = build_loss(BalancedGroupSoftmaxLoss.Config, K)
    x, y = rows(loss), labels()
    kept = int((y >= 0).sum())
    torch.manual_seed(0)
    means = loss(x, y)
    torch.testing.assert_close(call(loss, x, y, kept), means)
    torch.testing.assert_close(call(loss, x, y, 4.0 * kept), means / 4)


@dataclass(frozen=True)
class Undeclared(SoftmaxCrossEntropyLoss.Config):
    """From another package, without saying that its loss has logits of its own."""

    kind: ClassVar[str] = ""

    @property
    def has_own_logits(self) -> bool:
        return False


def test_a_dense_detector_refuses_them_before_reading_data() -> None:
    follow = [name for name, config in kinds(DetectorConfig).items() if config.follows_loss]
    for config in OWN_LOGITS:
        with pytest.raises(ConfigError, match=f"loss = {config.kind} has logits") as error:
            RetinaNet.Config(loss=config())
        assert all(f"--model {name}" in str(error.value) for name in follow)
        with pytest.raises(ConfigError, match="one sigmoid per category"):
            override(load_recipe("demo"), ["--loss", config.kind], "test")
    small = Backbone.Config("test_resnet", pretrained=False)
    for loss in (SoftmaxCrossEntropyLoss(3), Undeclared()):
        with pytest.raises(ConfigError, match="SoftmaxCrossEntropyLoss has logits of its own"):
            hyperfocal.RetinaNet(3, backbone=small, loss=loss)
