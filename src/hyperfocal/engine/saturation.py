"""Saturation of equalized losses: categories that they treat as balanced."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import nn

from hyperfocal.losses._core.memory import ratio_loss
from hyperfocal.types import CategoryCounts, HyperfocalWarning

NEARLY_ALL = 0.95
"""Fraction of the categories in training that counts as nearly all."""


@dataclass(frozen=True)
class Saturation:
    """How many categories a loss treats as balanced.

    Attributes:
        loss: its name.
        plain: the loss that it equals if all categories are balanced.
        remedies: settings that give negatives more weight in the gradient.
        balanced: categories with a ratio of 1 (see `GradientRatioLoss.balanced`).
        trained: categories that occur in training.
    """

    loss: str
    plain: str
    remedies: tuple[str, ...]
    balanced: int
    trained: int

    @property
    def complete(self) -> bool:
        """Whether nearly all categories are balanced, so that the loss equals the plain one."""
        return self.balanced >= NEARLY_ALL * self.trained

    def __str__(self) -> str:
        return (
            f"the gradient ratio of {self.balanced} of {self.trained} categories is 1, where "
            f"{self.loss} equals plain {self.plain}. This is expected on balanced data. On "
            "long-tailed data it means that positive gradients outweigh negative ones; to give "
            f"negatives more weight, use {', '.join(self.remedies)}. ratios.png shows when it "
            "happened."
        )


def saturation(model: nn.Module, counts: CategoryCounts) -> Saturation | None:
    """Saturation of a detector's loss; None if the loss has no ratios, or doesn't use them."""
    loss = ratio_loss(model)
    if loss is None or not loss.equalizes:
        return None
    known = [b for b, n in zip(loss.balanced().tolist(), counts.images, strict=True) if n > 0]
    lower = [f"a lower model.loss.{name}" for name in loss.favours_positives]
    remedies = (*lower, "a larger model.head.prior_probability")
    return Saturation(type(loss).__name__, loss.plain, remedies, sum(known), len(known))


class SaturationWarning:
    """Warns of complete saturation, once, at an evaluation in the second half of a training.

    The ratios often start at 1 and decrease as the gradients of negatives accumulate.

    Args:
        model: the detector.
        counts: of the training split.
        total: optimizer steps of the whole training.
    """

    def __init__(self, model: nn.Module, counts: CategoryCounts, total: int) -> None:
        self.model, self.counts, self.total = model, counts, total
        self.given = False

    def at(self, step: int) -> None:
        """Check the ratios after ``step``."""
        found = saturation(self.model, self.counts)
        if self.given or found is None or not found.complete or 2 * step < self.total:
            return
        self.given = True
        warnings.warn(f"step {step}: {found}", HyperfocalWarning, stacklevel=2)
