"""Whether a loss that equalizes categories still does: its ratios may all stand at 1."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import nn

from hyperfocal.losses.memory import ratio_loss
from hyperfocal.types import CategoryCounts, HyperfocalWarning

NEARLY_ALL = 0.95
"""Of the categories that occur in training."""


@dataclass(frozen=True)
class Saturation:
    """How many categories a loss treats as balanced.

    Attributes:
        loss: its name.
        plain: what it is where everything is balanced.
        remedies: settings that give the negatives a larger share of the gradient.
        balanced: categories with their ratio at 1 (see `GradientRatioLoss.balanced`).
        trained: categories that occur in training.
    """

    loss: str
    plain: str
    remedies: tuple[str, ...]
    balanced: int
    trained: int

    @property
    def complete(self) -> bool:
        """Whether nearly all categories are balanced, so that the loss does nothing of its own."""
        return self.balanced >= NEARLY_ALL * self.trained

    def __str__(self) -> str:
        return (
            f"the gradient ratio of {self.balanced} of {self.trained} categories stands at 1: "
            f"{self.loss} is then plain {self.plain}. On balanced data that is as it should be. On "
            "a long tail the objects have pulled harder than everything else has pushed; what "
            f"gives the negatives a larger share: {', '.join(self.remedies)}. ratios.png shows "
            "when it happened."
        )


def saturation(model: nn.Module, counts: CategoryCounts) -> Saturation | None:
    """How far the loss of a detector is saturated; None where it keeps no ratios, or uses none."""
    loss = ratio_loss(model)
    if loss is None or not loss.equalizes:
        return None
    known = [b for b, n in zip(loss.balanced().tolist(), counts.images, strict=True) if n > 0]
    lower = [f"a lower model.loss.{name}" for name in loss.favours_positives]
    remedies = (*lower, "a larger model.head.prior")
    return Saturation(type(loss).__name__, loss.plain, remedies, sum(known), len(known))


class SaturationWarning:
    """Warns of complete saturation, once, at an evaluation in the second half of a training.

    The ratios often start at 1 and come down as the negatives' gradients add up.

    Args:
        model: where the loss is found.
        counts: of the training split.
        total: optimizer steps of the whole training.
    """

    def __init__(self, model: nn.Module, counts: CategoryCounts, total: int) -> None:
        self.model, self.counts, self.total = model, counts, total
        self.given = False

    def at(self, step: int) -> None:
        """Look at the ratios as they are after ``step``."""
        found = saturation(self.model, self.counts)
        if self.given or found is None or not found.complete or 2 * step < self.total:
            return
        self.given = True
        warnings.warn(f"step {step}: {found}", HyperfocalWarning, stacklevel=2)
