"""Base classes of losses and of their settings.

A classification loss is any module that is called as ``loss(logits (..., K), labels (...),
normalizer)`` and returns a scalar. Further capabilities are declared by its base class, never by
the name of a method:

- `StreamableLoss`: a dense head may compute it a few categories at a time.
- `QualityLoss`: it also takes ``quality``, the IoU of each predicted box.
- `LossWithMemory`: it has a state that changes once per optimizer step.
- `LossWithOwnLogits`: its logits aren't one sigmoid per category (softmax, groups, objectness).

A box loss is a `BoxLoss`, which declares whether it compares boxes or deltas.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

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


class LossWithOwnLogits(nn.Module, ABC):
    """A loss whose logits aren't one sigmoid per category.

    It declares how many logits a classifier gives per row and how scores are computed from them,
    so that a classifier can follow any of them. Labels are still ``0..K-1``, ``K`` for background
    and ``-1`` for ignored.
    """

    @property
    @abstractmethod
    def num_logits(self) -> int:
        """Number of logits per row."""

    @property
    @abstractmethod
    def category_logits(self) -> tuple[int, ...]:
        """Index of each category's logit, K numbers, by which fine-tuning copies a classifier."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Scores ``(..., K)`` in [0, 1], float32 or better, of ``(..., num_logits)``."""

    @abstractmethod
    def initial_bias(self, prior: float) -> Tensor:
        """Biases ``(num_logits,)`` of a classifier that first gives objects probability ``prior``.

        Args:
            prior: probability in (0, 1) that a row is an object of any category.
        """


def num_logits(loss: nn.Module, num_classes: int) -> int:
    """Number of logits per row that a loss takes: K, unless it is a `LossWithOwnLogits`."""
    return loss.num_logits if isinstance(loss, LossWithOwnLogits) else num_classes


def category_logits(loss: nn.Module, num_classes: int) -> tuple[int, ...]:
    """Index of each category's logit."""
    if isinstance(loss, LossWithOwnLogits):
        return loss.category_logits
    return tuple(range(num_classes))


def class_scores(loss: nn.Module, logits: Tensor) -> Tensor:
    """Scores ``(..., K)`` in [0, 1] of logits ``(..., num_logits)``, float32 or better.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import SigmoidFocalLoss, SoftmaxCrossEntropyLoss, class_scores
        >>> class_scores(SigmoidFocalLoss(), torch.zeros(1, 3))
        tensor([[0.5000, 0.5000, 0.5000]])
        >>> class_scores(SoftmaxCrossEntropyLoss(3), torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500]])
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return loss.scores(logits) if isinstance(loss, LossWithOwnLogits) else logits.sigmoid()


def initial_bias(loss: nn.Module, num_classes: int, prior: float) -> Tensor:
    """Biases ``(num_logits,)`` of a classifier for an initial object probability.

    Of sigmoids each category has probability ``prior``; a `LossWithOwnLogits` gives it to all
    categories together.
    """
    if isinstance(loss, LossWithOwnLogits):
        return loss.initial_bias(prior)
    return torch.full((num_classes,), -math.log((1 - prior) / prior))


class BoxLoss(nn.Module):
    """A loss of P boxes: ``loss(pred (P, 4), target (P, 4), weight=(P,))`` returns a scalar."""

    on_boxes: ClassVar[bool] = False
    """Whether it compares boxes (xyxy) rather than the detector's encoded outputs."""


@dataclass(frozen=True)
class ClassificationLossConfig(Config, role=True):
    """Settings of a classification loss.

    Every subclass, of this package or another, is a valid ``model.loss``. Dense detectors have K
    sigmoid outputs per anchor and take the losses without logits of their own.
    """

    adds_up: ClassVar[bool] = True
    """Whether the loss is a sum over all logits, divided by the normalizer, so that the background
    contributes in proportion to its size."""

    @property
    def has_own_logits(self) -> bool:
        """Whether it builds a `LossWithOwnLogits`, which dense detectors can't use."""
        return False

    def with_own_logits(self) -> ClassificationLossConfig:
        """The settings for a classifier that follows its loss: the same, unless they leave it open.

        EQLv2, for example, has its objectness logit there by default.
        """
        return self

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
