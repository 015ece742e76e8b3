"""Base classes of losses and of their settings.

A classification loss is any module that is called as ``loss(logits (..., K), labels (...),
normalizer)`` and returns a scalar. Further capabilities are declared by its base class, never by
the name of a method:

- `StreamableLoss`: a dense head may compute it a few categories at a time.
- `QualityLoss`: it also takes ``quality``, the IoU of each predicted box.
- `LossWithMemory`: it has a state that changes once per optimizer step.

A box loss is a `BoxLoss`, which declares whether it compares boxes or deltas.
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
    a time, from `settings`, without calling ``forward`` (see `streamed_loss`). Both must therefore
    compute the same function: the class that defines ``forward`` also defines ``settings``. A
    subclass that overrides only one of them isn't streamed (see `streamed.streams`).
    """

    @abstractmethod
    def settings(self, num_classes: int) -> Settings:
        """γ and the factors of positives and negatives, for K categories."""


class QualityLoss(nn.Module):
    """A loss whose target is the IoU of the predicted box.

    It is also called with ``quality=(...)``, one value in [0, 1] per label.
    """


class LossWithMemory(nn.Module, ABC):
    """A loss with a state that is updated once per optimizer step (see `memory`)."""

    @abstractmethod
    def step(self) -> None:
        """Add the pending statistics of all processes to the state; a collective operation."""


class BoxLoss(nn.Module):
    """A loss of P boxes: ``loss(pred (P, 4), target (P, 4), weight=(P,))`` returns a scalar."""

    on_boxes: ClassVar[bool] = False
    """Whether it compares boxes (xyxy) rather than the detector's encoded outputs."""


@dataclass(frozen=True)
class ClassificationLossConfig(Config, role=True):
    """Settings of a classification loss for a dense detector's K sigmoid outputs.

    Every subclass, of this package or another, is a valid ``model.loss``.
    """

    adds_up: ClassVar[bool] = True
    """Whether the loss is a sum over all logits, divided by the normalizer, so that the background
    contributes in proportion to its size."""

    @abstractmethod
    def build(self, num_classes: int, counts: CategoryCounts | None = None) -> nn.Module:
        """A module that is called as ``loss(logits (..., K), labels (...), normalizer)``.

        Args:
            num_classes: K.
            counts: images and boxes per category in the training split; None if unknown.
        """


@dataclass(frozen=True)
class BoxLossConfig(Config, role=True):
    """Settings of a box regression loss for a dense detector."""

    @abstractmethod
    def build(self) -> BoxLoss:
        """The loss."""
