"""Greedy matching of detections with ground truth, for many images and categories at once."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfocal.evaluation.evaluator import Floats

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
"""All, small, medium, large, in px²; both bounds are inclusive."""


class Boxes(NamedTuple):
    """Boxes of many images; boxes of the same image and category have the same key.

    Attributes:
        key: ``(N,)`` int64, ascending.
        xywh: ``(N, 4)`` float64 px.
        area: ``(N,)`` float64 px².
    """

    key: NDArray[np.int64]
    xywh: Floats
    area: Floats


class Matches(NamedTuple):
    """Outcome of each detection by IoU threshold and area range.

    Attributes:
        hit: ``(N, 10, 4)`` bool, matched with a box in the area range.
        ignored: ``(N, 10, 4)`` bool, matched with a box outside the area range.
    """

    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]


def out_of_range(area: Floats) -> NDArray[np.bool_]:
    """``(N, 4)`` whether an area is outside each of `AREA_RANGES`."""
    low, high = AREA_RANGES.T
    return np.asarray((area[:, None] < low) | (area[:, None] > high))


def match(detections: Boxes, truth: Boxes) -> Matches:
    """Match greedily, as in pycocotools and lvis.

    Within a key, each detection in turn is matched with the unmatched box of the highest IoU at or
    above the threshold (ties go to the later). A box outside the area range is only matched if
    there is none inside, and the detection is then ignored.

    Detections of different keys don't interact, so the n-th of all keys are matched together: the
    number of steps is the largest number of overlapping detections of a key, not their total.

    Args:
        detections: ordered by score within a key, best first.
        truth: in the order of the annotation file within a key.
    """
    shape = (len(detections.key), len(IOU_THRESHOLDS), len(AREA_RANGES))
    hit, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    dt, gt, iou = _overlapping(detections, truth)
    if not len(dt):
        return Matches(hit, ignored)
    # Pairs of a detection in ascending order of preference, so that the last valid one is used.
    order = np.lexsort((gt, iou, dt))
    dt, gt, iou = dt[order], gt[order], iou[order]
    first = np.flatnonzero(np.r_[True, dt[1:] != dt[:-1]])
    size = np.diff(np.r_[first, len(dt)])
    rank = np.arange(len(dt)) - np.repeat(first, size) + 1

    key = detections.key[dt[first]]
    new = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    turn = np.arange(len(key)) - np.repeat(new, np.diff(np.r_[new, len(key)]))
    by_turn = np.argsort(turn, kind="stable")
    ends = np.searchsorted(turn[by_turn], np.arange(turn.max() + 2))

    fits_iou = iou[:, None] >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    gt_ignored = out_of_range(truth.area)
    inside = np.int32(size.max() + 1)
    worth = rank[:, None].astype(np.int32) + inside * ~gt_ignored[gt]
    taken = np.zeros((len(truth.key), *shape[1:]), np.bool_)
    for low, high in itertools.pairwise(ends):
        heads = by_turn[low:high]
        begin, count = first[heads], size[heads]
        start = np.cumsum(count) - count
        pairs = np.repeat(begin - start, count) + np.arange(count.sum())
        free = fits_iou[pairs][:, :, None] & ~taken[gt[pairs]]
        best = np.maximum.reduceat(free * worth[pairs][:, None, :], start, axis=0)
        row, t, a = np.nonzero(best)
        value = best[row, t, a]
        chosen = gt[begin[row] + value % inside - 1]
        taken[chosen, t, a] = True
        counts = value > inside
        here = dt[begin[row]]
        hit[here, t, a] = counts
        ignored[here, t, a] = ~counts
    return Matches(hit, ignored)


def pairs_of_equal_keys(
    detections: NDArray[np.int64], truth: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of all pairs of a detection and a ground-truth box with the same key.

    Args:
        detections: ``(N,)`` keys; pairs are in this order.
        truth: ``(M,)`` keys, ascending; pairs of a detection are in this order.
    """
    low = np.searchsorted(truth, detections, side="left")
    count = np.searchsorted(truth, detections, side="right") - low
    dt = np.repeat(np.arange(len(count)), count)
    gt = np.repeat(low - (np.cumsum(count) - count), count) + np.arange(len(dt))
    return dt, gt


def _overlapping(
    detections: Boxes, truth: Boxes
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Rows of detections and ground truth with the same key and IoU >= 0.5, and their IoU."""
    dt, gt = pairs_of_equal_keys(detections.key, truth.key)
    a, b = detections.xywh[dt], truth.xywh[gt]
    side = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    cut = np.where((side > 0).all(axis=1), side[:, 0] * side[:, 1], 0.0)
    union = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - cut
    iou = np.divide(cut, union, out=np.zeros_like(cut), where=cut > 0)
    near = iou >= IOU_THRESHOLDS[0]
    return dt[near], gt[near], iou[near]
