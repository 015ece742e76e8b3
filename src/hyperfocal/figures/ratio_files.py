"""What figures read of the gradient ratios of a run: ratios.jsonl and categories.json."""

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
    """One category of a run: its name, training images (None: unknown) and frequency group."""

    name: str
    train_images: int | None
    group: str | None


@dataclass(frozen=True)
class RatioHistory:
    """Gradient ratios over the course of a training.

    Attributes:
        steps: ``(S,)`` optimizer steps, rising.
        ratio: ``(S, K)`` as the next step used it.
        pos_grad: ``(S, K)`` accumulated positive gradient.
        neg_grad: ``(S, K)`` accumulated negative gradient.
    """

    steps: Series
    ratio: Series
    pos_grad: Series
    neg_grad: Series


def read_ratios(run: Path) -> RatioHistory:
    """Read ``ratios.jsonl`` of a run, finished or not; a last line cut short is left out.

    Raises:
        DataError: the run has no such file (its loss keeps no ratios), or nothing useful in it.
    """
    path = run / "ratios.jsonl"
    (lines,) = read_lines(path, (None,), "ratios")
    if not lines:
        raise DataError(f"{path}: no ratios were logged yet")
    names = ("ratio", "pos_grad", "neg_grad")
    try:
        columns = {n: np.array([line[n] for line in lines], np.float64) for n in names}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the ratios of a run ({error!r})") from None
    return RatioHistory(np.array([float(line["step"]) for line in lines]), **columns)


def read_categories(run: Path) -> tuple[tuple[TrainedCategory, ...], tuple[str, ...]]:
    """The categories of a run by label, and the frequency groups from rarest to most frequent.

    Groups are those of the run's own settings.

    Raises:
        DataError: ``categories.json`` or ``config.json`` is missing or something else.
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
