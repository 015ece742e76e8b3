"""Classification loss of a detector by level and category, to diagnose non-finite steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hyperfocal.losses import QualityLoss
from hyperfocal.types import IGNORED


@dataclass(frozen=True)
class LevelReport:
    """One pyramid level.

    Attributes:
        priors: number per image.
        positives: number in all images of the batch.
        loss: classification loss of this level's priors, divided by all positives.
        low: smallest finite logit.
        high: largest finite logit.
        nonfinite: number of logits that aren't finite.
    """

    priors: int
    positives: int
    loss: float
    low: float
    high: float
    nonfinite: int


@dataclass(frozen=True)
class CategoryReport:
    """One category.

    Attributes:
        positives: number of its positive priors.
        gradient: sum of the absolute gradients of its logits.
        nonfinite: number of its logits that aren't finite.
    """

    positives: int
    gradient: float
    nonfinite: int


@dataclass(frozen=True)
class Diagnosis:
    """Classification by level, fine to coarse, and by category, in label order."""

    levels: tuple[LevelReport, ...]
    categories: tuple[CategoryReport, ...]


def diagnose_classification(
    loss: nn.Module, logits: Sequence[Tensor], labels: Tensor, num_classes: int
) -> Diagnosis:
    """Classification loss by level and its gradient by category.

    A loss with memory adds to its pending sums, so the caller must restore its buffers.

    Args:
        loss: built by a `ClassificationLossConfig`.
        logits: ``(B, HWA, K)`` per level.
        labels: ``(B, A)``, see `Assignment`; candidates are positives.
        num_classes: K.
    """
    k = num_classes
    every = [level.detach().requires_grad_() for level in logits]
    total = ((labels >= 0) & (labels < k)).sum().clamp(min=1).float()
    shares = torch.split(labels, [level.shape[1] for level in every], dim=1)
    losses = [_loss(loss, x, y, total, k) for x, y in zip(every, shares, strict=True)]
    gradients = torch.autograd.grad(torch.stack(losses).sum(), every)
    levels = [_level(x, y, v, k) for x, y, v in zip(every, shares, losses, strict=True)]
    return Diagnosis(tuple(levels), _categories(every, gradients, labels, k))


def _loss(loss: nn.Module, logits: Tensor, labels: Tensor, total: Tensor, k: int) -> Tensor:
    flat, wanted = logits.flatten(0, 1), labels.flatten()
    extra = {}
    if isinstance(loss, QualityLoss):  # with quality 1 for all positives
        extra["quality"] = ((wanted != IGNORED) & (wanted < k)).float()
    value: Tensor = loss(flat, wanted, total, **extra)
    return value


def _level(logits: Tensor, labels: Tensor, loss: Tensor, k: int) -> LevelReport:
    values = logits.detach()
    finite = values[values.isfinite()]
    nothing = float("nan")
    return LevelReport(
        priors=logits.shape[1],
        positives=int(((labels >= 0) & (labels < k)).sum()),
        loss=float(loss.detach()),
        low=float(finite.min()) if len(finite) else nothing,
        high=float(finite.max()) if len(finite) else nothing,
        nonfinite=values.numel() - len(finite),
    )


def _categories(
    logits: Sequence[Tensor], gradients: Sequence[Tensor], labels: Tensor, k: int
) -> tuple[CategoryReport, ...]:
    positives = torch.bincount(labels[(labels >= 0) & (labels < k)], minlength=k).tolist()
    strength = sum(g.abs().sum(dim=(0, 1)) for g in gradients)
    wrong = sum((~x.detach().isfinite()).sum(dim=(0, 1)) for x in logits)
    assert isinstance(strength, Tensor)
    assert isinstance(wrong, Tensor)
    rows = zip(positives, strength.tolist(), wrong.tolist(), strict=True)
    return tuple(CategoryReport(*row) for row in rows)
