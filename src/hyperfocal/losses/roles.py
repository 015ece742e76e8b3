"""What a loss declares, and the base classes of losses' settings.

A loss is any module that is called as ``loss(logits (..., K), labels (...), normalizer)`` and
returns a scalar. What it can do beyond that it says by its base class, never by the name of a
method:

- `StreamableLoss`: a dense head may compute it a few categories at a time.
- `QualityLoss`: it also takes ``quality``, the IoU of each predicted box.
- `LossWithMemory`: it has a state that changes once per optimizer step.

A box loss is a `BoxLoss`, which says what it compares.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from hyperfocal.config import Config
from hyperfocal.losses.kernels import Settings
from hyperfocal.types import CategoryCounts


class StreamableLoss(nn.Module, ABC):
    """A sum over logits of the focal family: cross entropy, focal, EFL, EQLv2 & focal.

    A head with many categories computes it together with its last convolution, a few categories at
    a time, from `settings`, and then ``forward`` is not called (see `streamed_loss`). So both must
    be the same function: the class that defines ``forward`` defines ``settings`` as well. A
    subclass that overrides one of them alone is no longer streamed (see `streamed.streams`).
    """

    @abstractmethod
    def settings(self, num_classes: int) -> Settings:
        """γ and the factors of positives and negatives, for K categories."""


class QualityLoss(nn.Module):
    """A loss whose target is the IoU of the predicted box.

    It is called with ``quality=(...)``, one value in [0, 1] for each label, as well.
    """


class LossWithMemory(nn.Module, ABC):
    """A loss whose statistics are folded in once per optimizer step (see `memory`)."""

    @abstractmethod
    def step(self) -> None:
        """Fold its own pending statistics into the state, over all processes; collective."""


class BoxLoss(nn.Module):
    """A loss of P boxes: ``loss(pred (P, 4), target (P, 4), weight=(P,))`` returns a scalar."""

    on_boxes: ClassVar[bool] = False
    """Whether it compares boxes (xyxy) rather than the detector's encoded outputs."""


@dataclass(frozen=True)
class ClassificationLossConfig(Config, role=True):
    """Settings of a loss that a dense detector can train its K sigmoid outputs with.

    Every subclass, of this package or another, can stand in ``model.loss``.
    """

    adds_up: ClassVar[bool] = True
    """Whether it is a sum over all logits, divided by the normalizer, so that the background's part
    grows with its number."""

    @abstractmethod
    def build(self, num_classes: int, counts: CategoryCounts | None = None) -> nn.Module:
        """A module that is called as ``loss(logits (..., K), labels (...), normalizer)``.

        Args:
            num_classes: K.
            counts: how often each category occurs in training; None where that isn't known.
        """


@dataclass(frozen=True)
class BoxLossConfig(Config, role=True):
    """Settings of a loss that a dense detector can train its boxes with."""

    @abstractmethod
    def build(self) -> BoxLoss:
        """The loss."""
