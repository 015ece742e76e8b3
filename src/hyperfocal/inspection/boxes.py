"""Objects with several boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.formats.raw import counted
from hyperfocal.inspection.findings import Finding
from hyperfocal.inspection.reading import Examined
from hyperfocal.names import one_name

NEAR_IOU = 0.95
"""IoU from which two boxes in one image are considered the same object."""

MAX_NEIGHBOURS = 500
"""Maximum number of boxes of similar size in its image that a box is compared with."""


def check_doubles(split: Examined) -> list[Finding]:
    """Objects with two boxes, of one category or two."""
    raw = split.raw
    usable = np.isfinite(raw.boxes).all(axis=1) & ~raw.crowd
    with np.errstate(invalid="ignore"):
        usable &= (raw.boxes[:, 2] > raw.boxes[:, 0]) & (raw.boxes[:, 3] > raw.boxes[:, 1])
    rows = np.flatnonzero(usable)
    first, second, iou = near_pairs(raw.boxes[rows], raw.image_ids[rows], NEAR_IOU)
    first, second = rows[first], rows[second]
    same = raw.category_ids[first] == raw.category_ids[second]
    exact = (raw.boxes[first] == raw.boxes[second]).all(axis=1)
    names = {category.id: one_name(category.name) for category in raw.categories}
    findings = []
    kinds = (
        (
            same & exact,
            "duplicate_boxes",
            "with an exact duplicate of the same category: they count twice in training, and one "
            "of the two is always missed in evaluation",
        ),
        (
            same & ~exact,
            "near_duplicate_boxes",
            f"with IoU {NEAR_IOU:g} or more with another of the same category, probably the same "
            "object annotated twice",
        ),
        (
            ~same,
            "two_categories_one_box",
            f"with IoU {NEAR_IOU:g} or more with one of another category: in training, the two "
            "labels of the object contradict each other",
        ),
    )
    for chosen, kind, what in kinds:
        count = len(np.unique(second[chosen]))
        if not count:
            continue
        order = np.flatnonzero(chosen)[np.argsort(-iou[chosen], kind="stable")][:20]

        def name(row: int) -> str:
            return names.get(int(raw.category_ids[row]), "unknown")

        notes = [
            f"{name(second[n])}, duplicate of {raw.describe(int(first[n]))}, {name(first[n])}"
            for n in order
        ]
        cases = split.cases(second[order].tolist(), notes)
        text = f"{counted(count, 'box boxes')} {what}"
        findings.append(Finding("warning", kind, split.name, text, count, cases))
    return findings


def near_pairs(
    boxes: NDArray[np.float64], groups: NDArray[np.int64], least: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of boxes in one group (image) with an IoU of at least ``least``.

    Boxes are compared with the next, the second next, ... of their group, all groups at once, so
    that there is no loop over images. If an image has more than `MAX_NEIGHBOURS` boxes of similar
    size, only equal boxes are guaranteed to be found.

    Args:
        boxes: ``(N, 4)`` xyxy with positive areas.
        groups: ``(N,)`` group of each box.
        least: the threshold, above 0.

    Returns:
        Rows of the first and of the second box of each pair, and their IoU.
    """
    # IoU >= t needs areas within a factor t: sorted by area within a group, a comparison can stop
    # at the first box that is too large. Equal boxes are neighbours.
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.lexsort((boxes[:, 1], boxes[:, 0], area, groups))
    b, g, a = boxes[order], groups[order], area[order]
    firsts, seconds, ious = [], [], []
    left, step = np.arange(len(order) - 1), 1
    while len(left) and step <= MAX_NEIGHBOURS:
        right = left + step
        near = (g[left] == g[right]) & (a[left] >= least * a[right])
        left, right = left[near], right[near]
        low = np.maximum(b[left, :2], b[right, :2])
        high = np.minimum(b[left, 2:], b[right, 2:])
        inter = np.clip(high - low, 0, None).prod(axis=1)
        iou = inter / (a[left] + a[right] - inter)
        hit = iou >= least
        firsts.append(np.minimum(order[left[hit]], order[right[hit]]))
        seconds.append(np.maximum(order[left[hit]], order[right[hit]]))
        ious.append(iou[hit])
        step += 1
        left = left[left + step < len(order)]
    empty = np.zeros(0, np.int64)
    return (
        np.concatenate([empty, *firsts]),
        np.concatenate([empty, *seconds]),
        np.concatenate([np.zeros(0), *ious]),
    )
