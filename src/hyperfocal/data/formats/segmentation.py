"""Bounding boxes of COCO segmentations: polygons or run-length encoded masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_RUNS = 10_000_000
"""Runs of a mask that are read."""


def segmentation_box(segmentation: Any) -> tuple[float, float, float, float] | None:
    """``x1, y1, x2, y2`` around a segmentation, or None if it can't be read or is empty.

    Polygons are lists of ``x1, y1, x2, y2, ...``; the box contains all their points. A mask is
    ``{"size": [height, width], "counts": ...}`` with the lengths of runs down the columns, as a
    list or in COCO's compressed text; the box contains its pixels, like the result of
    `pycocotools.mask.toBbox`.
    """
    try:
        if isinstance(segmentation, dict):
            return _mask_box(segmentation)
        return _polygon_box(segmentation)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None


def _polygon_box(polygons: Any) -> tuple[float, float, float, float] | None:
    if polygons and not isinstance(polygons[0], list | tuple):
        polygons = [polygons]
    points = np.concatenate([np.array(p, np.float64).reshape(-1, 2) for p in polygons])
    if len(points) < 2 or not np.isfinite(points).all():
        return None
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x1, y1, x2, y2


def _mask_box(mask: dict[str, Any]) -> tuple[float, float, float, float] | None:
    height, width = (int(side) for side in mask["size"])
    counts = mask["counts"]
    runs = _decompressed(counts) if isinstance(counts, str) else np.array(counts, np.int64)
    if height <= 0 or width <= 0 or runs.ndim != 1 or (runs < 0).any():
        return None
    ends = np.cumsum(runs)
    if not len(ends) or ends[-1] > height * width:
        return None
    first, last = (ends - runs)[1::2], ends[1::2] - 1  # of runs inside the mask
    keep = last >= first
    first, last = first[keep], last[keep]
    if not len(first):
        return None
    crosses = first // height != last // height  # down to the bottom and on in the next column
    top = np.where(crosses, 0, first % height).min()
    bottom = np.where(crosses, height - 1, last % height).max()
    left, right = (first // height).min(), (last // height).max()
    return float(left), float(top), float(right + 1), float(bottom + 1)


def _decompressed(text: str) -> NDArray[np.int64]:
    """Run lengths from COCO's compressed text: 5 bits per character, offset by 48; each length is
    the difference to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60 or len(runs) > MAX_RUNS:
            raise ValueError("not a compressed mask")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return np.array(runs, np.int64)
