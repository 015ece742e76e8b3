"""Gradient ratios of equalized losses: their log, and a check for saturation."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hyperfocal.engine.json_lines import LineFile, read_lines, write_lines
from hyperfocal.losses._core.memory import ratio_loss
from hyperfocal.types import CategoryCounts, HyperfocalWarning

POINTS = 200


def logged_steps(total: int) -> frozenset[int]:
    """Steps after which the ratios are logged: 1, 2, 5, 10, ... and `POINTS` evenly spaced ones.

    The ratios change most in the first steps; later ones change slowly, and a line of 1203
    categories is long.
    """
    early = {m * 10**e for e in range(7) for m in (1, 2, 5)}
    even = {math.ceil(total * i / POINTS) for i in range(1, POINTS + 1)}
    return frozenset(s for s in early | even if s <= total)


class RatioLog:
    """Appends a line to ratios.jsonl after some steps, for a detector whose loss has ratios.

    A line has ``step`` and, by label, ``ratio``, ``pos_grad`` and ``neg_grad`` as used in the next
    step. Other losses get no file. Lines after ``step`` are removed first, so that a resumed run
    has no duplicates.

    Args:
        path: the file.
        model: the detector.
        step: optimizer steps done so far.
        total: optimizer steps of the whole training.
    """

    def __init__(self, path: Path, model: nn.Module, step: int, total: int) -> None:
        self.loss = ratio_loss(model)
        self.steps = logged_steps(total)
        if self.loss is not None:
            write_lines(path, [line for line in read_lines(path) if line["step"] <= step])
        self.file = LineFile(path)

    def after(self, step: int) -> None:
        """Log the ratios after optimizer step ``step``, if it is one of the logged steps."""
        if self.loss is None or step not in self.steps:
            return
        line: dict[str, Any] = {"step": step}
        for name in ("ratio", "pos_grad", "neg_grad"):
            values = getattr(self.loss, name).tolist()
            line[name] = [float(f"{value:.6g}") for value in values]
        self.file.append(line)

    def sync(self) -> None:
        """Flush to disk, before a checkpoint that relies on it."""
        self.file.sync()


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
