"""Reading of a run folder for figures: ``metrics.jsonl`` and ``metrics.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperfocal.types import DataError

Series = NDArray[np.float64]

LOSS_TERMS = ("loss", "classification", "box", "quality")

STANDARD_AP = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Log:
    """A training log by columns; nan where a line has no value.

    Attributes:
        steps: ``(S,)`` logged optimizer steps, ascending.
        losses: ``(S,)`` by term, those of `LOSS_TERMS` that occur.
        evaluated: ``(E,)`` optimizer steps of evaluations, ascending.
        metrics: ``(E,)`` by name, all metrics that occur.
    """

    steps: Series
    losses: dict[str, Series]
    evaluated: Series
    metrics: dict[str, Series]

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the frequency groups with metrics, from rarest to most frequent."""
        return ap_groups(self.metrics)


def ap_groups(metrics: dict[str, Any]) -> tuple[str, ...]:
    """The groups ``g`` whose ``APg`` is among the metrics, in their order."""
    return tuple(
        name.removeprefix("AP")
        for name in metrics
        if name.startswith("AP") and not name.startswith("AP50") and name not in STANDARD_AP
    )


def read_log(run: Path) -> Log:
    """Read ``metrics.jsonl`` of a run, finished or not.

    An incomplete last line is ignored; of two lines for the same step the later is used.

    Raises:
        DataError: there is no log, a line is damaged, or no step was logged.
    """
    path = run / "metrics.jsonl"
    steps, evaluations = read_lines(path, ("step", "evaluation"), "step or evaluation")
    if not steps:
        raise DataError(f"{path}: no step has been logged yet")
    names = dict.fromkeys(name for line in evaluations for name in line)
    return Log(
        steps=_column(steps, "step"),
        losses={
            term: _column(steps, term) for term in LOSS_TERMS if any(term in line for line in steps)
        },
        evaluated=_column(evaluations, "step"),
        metrics={
            name: _column(evaluations, name)
            for name in names
            if name not in ("kind", "step", "epoch", "time")
        },
    )


def read_lines(path: Path, kinds: Sequence[str | None], what: str) -> list[list[dict[str, Any]]]:
    """Lines of a JSON lines file for each kind, sorted by step.

    An incomplete last line is ignored; of two lines for the same step the later is used.

    Args:
        path: file with one JSON object per line.
        kinds: values of ``kind``; None for lines without it.
        what: required content of a line, for the message.

    Raises:
        DataError: the file doesn't exist, or a line is damaged.
    """
    found: dict[str | None, dict[float, dict[str, Any]]] = {kind: {} for kind in kinds}
    texts = read_text(path).splitlines()
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            found[line.get("kind")][float(line["step"])] = line
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number < len(texts):
                raise DataError(f"{path}: line {number} has no {what} ({error!r})") from None
    return [[lines[step] for step in sorted(lines)] for lines in found.values()]


@dataclass(frozen=True)
class CategoryRow:
    """A category of ``metrics.json``; None if unknown or undefined."""

    name: str
    AP: float | None
    AP50: float | None
    gt: int
    train_images: int | None
    group: str | None


@dataclass(frozen=True)
class Measured:
    """Content of ``metrics.json``.

    Attributes:
        metrics: by name; None if undefined.
        categories: one row per category, in label order.
    """

    metrics: dict[str, float | None]
    categories: tuple[CategoryRow, ...]


def read_metrics(run: Path) -> Measured:
    """Read ``metrics.json``, the last evaluation of a run.

    Raises:
        DataError: the file is missing or invalid.
    """
    path = run / "metrics.json"
    fields = tuple(CategoryRow.__dataclass_fields__)
    try:
        data = json.loads(read_text(path))
        rows = tuple(
            CategoryRow(**{field: row[field] for field in fields}) for row in data["categories"]
        )
        return Measured(dict(data["metrics"]), rows)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not the metrics of a run ({error!r})") from None


def read_text(path: Path) -> str:
    """The text of a file in a run folder.

    Raises:
        DataError: the file doesn't exist.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; is {path.parent} a run folder?") from None


def _column(lines: list[dict[str, Any]], name: str) -> Series:
    values = (line.get(name) for line in lines)
    return np.array([math.nan if v is None else float(v) for v in values])
