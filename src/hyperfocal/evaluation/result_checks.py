"""Checks of the detections in a results file against the annotations."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfocal.evaluation.evaluator import Floats
from hyperfocal.evaluation.result_mistakes import likely_mistake
from hyperfocal.files import shown
from hyperfocal.types import (
    AnnotationSet,
    HyperfocalWarning,
    OpenImagesBoxes,
    OpenImagesTruth,
)

Ints = NDArray[np.int64]

MOST_FRACTION = 1.5
"""Largest plausible corner of a box as a fraction of the image."""

LEAST_MISSED = 0.05
"""Fraction of the ground truth in images without results; with less a detector may simply have
found nothing in them."""


class ResultRows(NamedTuple):
    """Detections of a results file as columns.

    Attributes:
        image: ``(N,)`` index in ``annotations.images``.
        label: ``(N,)`` in ``0..K-1``.
        xywh: ``(N, 4)`` as in the file.
        score: ``(N,)``.
    """

    image: Ints
    label: Ints
    xywh: Floats
    score: Floats


def warn(path: Path, text: str) -> None:
    """Issue a `HyperfocalWarning` about a results file."""
    warnings.warn(f"{path}: {text}", HyperfocalWarning, stacklevel=4)


def check_results(rows: ResultRows, annotations: AnnotationSet, path: Path) -> None:
    """Warn about each kind of likely mistake, with the number of cases."""
    _check_coverage(rows, annotations, path)
    check_scores(rows.score, path)
    check_copies([rows.image, rows.label, rows.xywh, rows.score], path)
    mistake = likely_mistake(rows.image, rows.label, rows.xywh, rows.score, annotations)
    if mistake is not None:
        warn(path, mistake)
        return
    total = len(rows.score)
    empty = int((rows.xywh[:, 2:] <= 0).any(axis=1).sum())
    if empty:
        warn(
            path,
            f"{empty} of {total} boxes have no width or height: they count as false positives",
        )
    sizes = np.array([(r.width, r.height) for r in annotations.images], np.float64).reshape(-1, 2)
    low, high = rows.xywh[:, :2], rows.xywh[:, :2] + rows.xywh[:, 2:]
    outside = int(((low >= sizes[rows.image]) | (high <= 0)).any(axis=1).sum())
    if outside:
        warn(
            path,
            f"{outside} of {total} boxes are outside their image: they count as false positives",
        )


def _check_coverage(rows: ResultRows, annotations: AnnotationSet, path: Path) -> None:
    boxes = np.array([len(record.labels) for record in annotations.images])
    has = np.zeros(len(boxes), np.bool_)
    has[rows.image] = True
    missed = int(boxes[~has].sum())
    if missed and missed >= LEAST_MISSED * boxes.sum():
        warn(
            path,
            f"results for {int(has.sum())} of {len(boxes)} images; the {missed} boxes of the "
            "others count as missed",
        )


def check_openimages_results(found: OpenImagesBoxes, truth: OpenImagesTruth, path: Path) -> None:
    """`check_results` for the Open Images format, with boxes as fractions of the image."""
    listed = {name for name, _ in truth.positive | truth.negative} | set(truth.boxes.names)
    has = np.isin(np.arange(len(found.names)), found.image)
    named = [name for name, used in zip(found.names, has.tolist(), strict=True) if used]
    others = [name for name in named if name not in listed]
    if others:
        warn(
            path,
            f"{len(others)} of {len(named)} images aren't annotated, such as "
            f"{shown(others[0])}; their detections are ignored",
        )
    outside = int((found.xyxy > MOST_FRACTION).any(axis=1).sum())
    if outside:
        warn(
            path,
            f"{outside} of {len(found.image)} boxes are far outside their image (largest number "
            f"{found.xyxy.max():g}): Open Images' boxes are fractions of the image's width and "
            "height, not pixels",
        )
    check_scores(found.value, path)
    check_copies([found.image, found.labels, found.xyxy, found.value], path)


def check_scores(score: Floats, path: Path) -> None:
    """Warn about scores that aren't probabilities."""
    bad = int(((score < 0) | (score > 1)).sum())
    if bad:
        warn(
            path,
            f"{bad} of {len(score)} scores are outside [0, 1] ({score.min():g} to "
            f"{score.max():g}); the metrics only use their order, highest first",
        )


def check_copies(columns: Sequence[NDArray[Any]], path: Path) -> None:
    """Warn about duplicate detections.

    Args:
        columns: ``(N,)`` or ``(N, C)`` each; equal rows are duplicates.
        path: the results file.
    """
    # One hash per row, computed column by column: sorting rows would take ten times as long.
    flat = [column for part in columns for column in np.atleast_2d(part.T)]
    factors = np.random.default_rng(0).integers(1, 2**63, len(flat), dtype=np.uint64) | 1
    total = np.zeros(len(columns[0]), np.uint64)
    for column, factor in zip(flat, factors, strict=True):
        bits = (column.astype(np.float64) + 0.0).view(np.uint64)  # + 0.0: -0.0 is 0.0
        mixed = (bits ^ (bits >> np.uint64(29))) * factor
        total += mixed ^ (mixed >> np.uint64(32))
    copies = len(total) - len(np.unique(total))
    if copies:
        warn(
            path,
            f"{copies} of {len(total)} detections are duplicates (same image, category, box and "
            "score), which count as false positives",
        )
