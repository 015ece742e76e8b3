"""Reading of a run's gradient ratios for figures: ratios.jsonl and categories.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperfocal.config import load
from hyperfocal.evaluation import FrequencyGroups
from hyperfocal.figures.run_files import Series, read_lines, read_text
from hyperfocal.types import ConfigError, DataError


@dataclass(frozen=True)
class TrainedCategory:
    """A category of a run: name, number of training images (None: unknown), frequency group."""

    name: str
    train_images: int | None
    group: str | None


@dataclass(frozen=True)
class RatioHistory:
    """Gradient ratios over training steps.

    Attributes:
        steps: ``(S,)`` optimizer steps, ascending.
        ratio: ``(S, K)``, as used by the next step.
        pos_grad: ``(S, K)`` accumulated positive gradient.
        neg_grad: ``(S, K)`` accumulated negative gradient.
    """

    steps: Series
    ratio: Series
    pos_grad: Series
    neg_grad: Series


def read_ratios(run: Path) -> RatioHistory:
    """Read ``ratios.jsonl`` of a run, finished or not; an incomplete last line is ignored.

    Raises:
        DataError: the run has no such file (its loss has no ratios), or the file has no ratios.
    """
    path = run / "ratios.jsonl"
    (lines,) = read_lines(path, (None,), "ratios")
    if not lines:
        raise DataError(f"{path}: no ratios have been logged yet")
    names = ("ratio", "pos_grad", "neg_grad")
    try:
        columns = {n: np.array([line[n] for line in lines], np.float64) for n in names}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the ratios of a run ({error!r})") from None
    return RatioHistory(np.array([float(line["step"]) for line in lines]), **columns)


def read_categories(run: Path) -> tuple[tuple[TrainedCategory, ...], tuple[str, ...]]:
    """The categories of a run by label, and the frequency groups from rarest to most frequent.

    Groups are those in the run's settings.

    Raises:
        DataError: ``categories.json`` or ``config.json`` is missing or invalid.
    """
    path = run / "categories.json"
    try:
        entries = json.loads(read_text(path))["categories"]
        settings = json.loads(read_text(run / "config.json"))["evaluation"]["groups"]
        groups = load(FrequencyGroups, settings, str(run / "config.json"))
        rows = [(str(e["name"]), e.get("train_images")) for e in entries]
        categories = tuple(
            TrainedCategory(name, n, None if n is None else groups.group_of(n)) for name, n in rows
        )
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise DataError(f"{path}: not the categories of a run ({error!r})") from None
    return categories, groups.names
