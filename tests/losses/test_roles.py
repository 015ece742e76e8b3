"""What a loss can do is declared by its class; an override withdraws it."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.components import LOSSES, build_loss, each_loss, losses_with
from torch import Tensor, nn

from hyperfocal import losses
from hyperfocal.losses._core.memory import own_buffers, ratio_loss
from hyperfocal.models.streamed import streams

K = 3
STREAMED = losses_with(losses.StreamableLoss)


class OwnForward(losses.SigmoidFocalLoss):
    def forward(self, logits: Tensor, targets: Tensor, normalizer: float = 1.0) -> Tensor:
        return logits.sum() / normalizer


class OwnSettings(losses.SigmoidFocalLoss):
    def settings(self, num_classes: int) -> losses.kernels.Settings:
        return losses.kernels.focal_settings(0.5, 1.0, num_classes)


class Both(losses.SigmoidFocalLoss):
    def forward(self, logits: Tensor, targets: Tensor, normalizer: float = 1.0) -> Tensor:
        return losses.sigmoid_cross_entropy(logits, targets, reduction="sum", normalizer=normalizer)

    def settings(self, num_classes: int) -> losses.kernels.Settings:
        return losses.kernels.focal_settings(None, 0.0, num_classes)


class Mixin:
    def forward(self, logits: Tensor, targets: Tensor, normalizer: float = 1.0) -> Tensor:
        return logits.mean()


class WithMixin(Mixin, losses.SigmoidFocalLoss):
    pass


class Named(losses.SigmoidFocalLoss):
    """Changes nothing that the settings describe."""

    def extra_repr(self) -> str:
        return "named"


class SettingsByName(nn.Module):
    """Has a method of that name, and declares nothing."""

    def settings(self, num_classes: int) -> int:
        return num_classes

    def step(self) -> None:
        raise AssertionError("not a loss with memory")


class OwnStatistics(losses.EqualizedFocalLoss):
    def statistics(self, num_classes: int) -> losses.kernels.Settings:
        return losses.kernels.focal_settings(None, 3.0, num_classes)


@each_loss
def test_the_losses_that_declare_it_stream(config):
    assert streams(build_loss(config, K)) == (config in STREAMED)


def test_losses_of_the_focal_family_stream():
    assert {"focal", "ce", "efl", "eqlv2_focal"} <= {config.kind for config in STREAMED}


@pytest.mark.parametrize("build", [Both, Named])
def test_a_subclass_that_defines_both_or_neither_streams(build):
    assert streams(build())


@pytest.mark.parametrize(
    "build", [OwnForward, OwnSettings, WithMixin, SettingsByName, lambda: OwnStatistics(K)]
)
def test_a_subclass_that_overrides_one_of_them_does_not(build):
    assert not streams(build())


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_loss_with_a_hook_is_called(register):
    loss = losses.SigmoidFocalLoss()
    handle = getattr(loss, register)(lambda *args: None)
    assert not streams(loss)
    handle.remove()
    assert streams(loss)


def test_a_loss_whose_forward_is_replaced_is_called():
    loss = losses.SigmoidFocalLoss()
    loss.forward = lambda *args: torch.zeros(())
    assert not streams(loss)


@pytest.mark.parametrize("rows", [8, 40_000])  # below and above the fused form's threshold
def test_statistics_of_a_subclass_do_not_depend_on_the_number_of_logits(rows):
    """What a subclass overrides is used by both forms or by neither."""
    own, plain = OwnStatistics(K), losses.EqualizedFocalLoss(K)
    x = torch.randn(rows, K, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(rows) % (K + 1)
    for loss in (own, plain):
        loss(x, labels, 7.0)
    torch.testing.assert_close(own.pending_pos, plain.pending_pos)
    torch.testing.assert_close(own.pending_neg, plain.pending_neg)


class Wrapper(nn.Module):
    """A detector in small: a ``step`` of its own that steps its loss."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss, self.alias = loss, loss

    def step(self) -> None:
        losses.step_losses(self.loss)


class Counted(losses.LossWithMemory):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.inner = nn.BatchNorm1d(2)

    def step(self) -> None:
        self.steps += 1


def test_step_losses_steps_each_loss_once_and_nothing_else():
    model = nn.Sequential(Wrapper(Counted()), SettingsByName())
    losses.step_losses(model)
    assert model[0].loss.steps == 1


def test_buffers_of_parts_of_a_loss_with_memory_are_its_own():
    model = nn.Sequential(Counted(), nn.BatchNorm1d(2))
    assert own_buffers(model) == [n for n, _ in model.named_buffers() if n.startswith("0.inner.")]
    assert len(own_buffers(Counted())) == 3


def test_what_favours_positives_are_settings_of_the_loss():
    found = 0
    for config in LOSSES:
        loss = ratio_loss(build_loss(config, K))
        if loss is not None and loss.favours_positives:
            found += 1
            for name in loss.favours_positives:
                lower = copy.deepcopy(loss)
                setattr(lower, name, getattr(loss, name) / 2)
                assert share_of_positives(lower) < share_of_positives(loss)
    assert found >= 3  # EFL, EQLv2 on focal, EQFL


def share_of_positives(loss: losses.LossWithMemory) -> float:
    """Of the gradient, where objects are found less well than background."""
    x = torch.full((2, K), -3.0)
    loss(x, torch.tensor([0, K]), 1.0)
    positive, negative = loss.pending_pos.sum(), loss.pending_neg.sum()
    return float(positive / (positive + negative))


def test_scale_zero_equalizes_nothing():
    for cls in (losses.EqualizedFocalLoss, losses.EqualizedQualityFocalLoss):
        assert cls(K).equalizes
        assert not cls(K, scale=0.0).equalizes
