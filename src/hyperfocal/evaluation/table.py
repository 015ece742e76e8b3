"""Metrics as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hyperfocal.evaluation.evaluator import CategoryMetrics
from hyperfocal.names import as_text, one_name

if TYPE_CHECKING:
    from rich.table import Table

MEANINGS = {
    "AP": "mean over IoU .50:.05:.95",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "APs": "small objects, below 32² px",
    "APm": "medium objects",
    "APl": "large objects, above 96² px",
    "AR1": "recall with 1 detection per image and category",
    "APr": "rare categories in training",
    "APc": "common categories in training",
    "APf": "frequent categories in training",
    "AP1": "rarest fifth of the categories in training",
    "AP5": "most frequent fifth of the categories in training",
}


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """One row per metric, in the mapping's order; "-" for nan."""
    from rich.table import Table

    table = Table("metric", "", title="Detection metrics", title_justify="left")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(as_text(one_name(name)), MEANINGS.get(name, ""), _three(value))
    return table


def category_table(categories: Sequence[CategoryMetrics]) -> Table:
    """One row per category, sorted by training images (if unknown, by ground-truth boxes)."""
    from rich.table import Table

    known = any(c.train_images is not None for c in categories)
    table = Table("category", title="Per category", title_justify="left")
    if known:
        table.add_column("group")
        table.add_column("train images", justify="right")
    for header in ("boxes", "AP", "AP50"):
        table.add_column(header, justify="right")
    # Unseen and undefined rows are last within their frequency: the sort is stable by label.
    for c in sorted(
        categories, key=lambda c: -(c.gt if c.train_images is None else c.train_images)
    ):
        frequency = [one_name(c.group or "-"), str(c.train_images)] if known else []
        name = as_text(one_name(c.name))
        numbers = (*frequency, str(c.gt), _three(c.AP), _three(c.AP50))
        table.add_row(name, *map(as_text, numbers))
    return table


def _three(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
