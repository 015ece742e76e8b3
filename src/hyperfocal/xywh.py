"""Conversion to COCO's box format that preserves the digits in the file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def as_xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """COCO's x, y, width, height ``(N, 4)`` from xyxy.

    Rounded to a billionth of a pixel, which undoes the error of (x + w) - x for widths that were
    written with up to nine decimals.
    """
    return np.concatenate([boxes[:, :2], np.round(boxes[:, 2:] - boxes[:, :2], 9)], axis=1)


def written_xywh(
    boxes: NDArray[np.float64], xywh: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """``xywh`` where it still corresponds to ``boxes``, else `as_xywh`; None if both are equal.

    An IoU at a threshold may depend on the last digit of a width, which xyxy loses.
    """
    computed = as_xywh(boxes)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    exact = np.where((corners == boxes).all(axis=1, keepdims=True), xywh, computed)
    return None if np.array_equal(exact, computed) else exact
