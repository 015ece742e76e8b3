"""Likely mistakes in results files: boxes in another format, unit or scale, and shifted ids.

A mistake is reported if all detections, interpreted in another way, match many ground-truth boxes,
but don't as written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfocal.evaluation.evaluator import Floats
from hyperfocal.files import shown
from hyperfocal.types import AnnotationSet

Ints = NDArray[np.int64]

MOST_IMAGES, MOST_ROWS = 200, 300
"""Number of images that are checked, evenly spaced, and of best detections in each."""

LEAST_FOUND = 0.15
"""Fraction of the ground truth that another interpretation must match."""

TIMES_BETTER = 2.0
"""Minimum ratio of boxes matched by another interpretation to boxes matched as written."""

TIMES_BETTER_FITTED = 4.0
"""The same for interpretations fitted to the ground truth: scales, shifted and renumbered ids."""

INSIDE, SLACK = 0.98, 0.05
"""Fraction of boxes that must be inside their images in another interpretation, with a tolerance of
this fraction of the images' sides."""

SCALE_STEP = 0.05
"""Tolerance in the logarithm of a factor."""


class _Image(NamedTuple):
    """One image: ground truth as xyxy, detections as the four numbers in the file."""

    gt: Floats
    gt_labels: Ints
    written: Floats
    labels: Ints
    size: Floats  # width, height


def likely_mistake(
    image: Ints, label: Ints, written: Floats, score: Floats, annotations: AnnotationSet
) -> str | None:
    """A description of the likely mistake with its evidence; None if nothing looks wrong.

    Args:
        image: ``(N,)`` index in ``annotations.images``.
        label: ``(N,)``.
        written: ``(N, 4)`` numbers that should be x, y, width, height in pixels.
        score: ``(N,)``.
        annotations: the evaluated split.
    """
    images = _sample(image, label, written, score, annotations)
    total = sum(len(one.gt) for one in images)
    if not total:
        return None
    found = sum(_hits(one, _xywh(one.written)) for one in images)
    enough = max(1, LEAST_FOUND * total, TIMES_BETTER * found)
    enough_fitted = max(3, LEAST_FOUND * total, TIMES_BETTER_FITTED * found)

    def evidence(hits: int) -> str:
        return (
            f"interpreted so, {hits} of {total} ground-truth boxes are matched at IoU 0.5, as "
            f"written {found}"
        )

    best = max(
        ((_matched(images, read), name) for name, read in _readings()), key=lambda pair: pair[0]
    )
    if best[0] >= enough:
        return f"boxes seem to be {best[1]}, not x, y, width, height in pixels: {evidence(best[0])}"
    for layout, name in ((_xywh, ""), (_xyxy, " and to be x1, y1, x2, y2")):
        text, hits = _rescaled(images, layout)
        if hits >= enough_fitted:
            return f"boxes seem to be scaled by {text}{name}: {evidence(hits)}"
    if found < 0.5 * total:
        for shift in (1, -1):
            moved = _sample(image, label, written, score, annotations, shift)
            hits = sum(_hits(one, _xywh(one.written)) for one in moved)
            if hits >= enough_fitted:
                where = "low" if shift == 1 else "high"
                return f"image ids seem to be too {where} by one: {evidence(hits)}"
    return _renumbered(images, annotations) if found >= 3 else None


def _sample(
    image: Ints,
    label: Ints,
    written: Floats,
    score: Floats,
    annotations: AnnotationSet,
    shift: int = 0,
) -> list[_Image]:
    """A sample of images with ground truth and detections; ``shift`` shifts the image ids."""
    records = annotations.images
    if shift:
        rank = np.argsort(np.argsort([record.id for record in records]))
        by_rank = np.argsort(rank)
        moved = rank[image] + shift
        inside = (moved >= 0) & (moved < len(records))
        image = by_rank[moved[inside]]
        label, written, score = label[inside], written[inside], score[inside]
    order = np.lexsort((-score, image))
    ends = np.searchsorted(image[order], np.arange(len(records) + 1))
    useful = [n for n, r in enumerate(records) if ends[n + 1] > ends[n] and (~r.crowd).any()]
    count = min(len(useful), MOST_IMAGES)
    sample = []
    for n in (useful[i * len(useful) // count] for i in range(count)):
        own, record = order[ends[n] : min(ends[n + 1], ends[n] + MOST_ROWS)], records[n]
        size = np.array([record.width, record.height], np.float64)
        kept = ~record.crowd
        sample.append(
            _Image(record.boxes[kept], record.labels[kept], written[own], label[own], size)
        )
    return sample


# --------------------------------------------------------------------------- interpretations


def _xywh(v: Floats) -> Floats:
    return np.concatenate([v[:, :2], v[:, :2] + v[:, 2:]], axis=1)


def _xyxy(v: Floats) -> Floats:
    return v


def _centre(v: Floats) -> Floats:
    return np.concatenate([v[:, :2] - v[:, 2:] / 2, v[:, :2] + v[:, 2:] / 2], axis=1)


def _swapped(layout: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    return lambda v: layout(v[:, [1, 0, 3, 2]])


LAYOUTS: dict[str, Callable[[Floats], Floats]] = {
    "x, y, width, height": _xywh,
    "x1, y1, x2, y2": _xyxy,
    "centre x, centre y, width, height": _centre,
    "y1, x1, y2, x2": _swapped(_xyxy),
    "y, x, height, width": _swapped(_xywh),
}
UNITS = {
    "": 0.0,
    " as fractions of the image": 1.0,
    " in percent of the image": 100.0,
    " in thousandths of the image": 1000.0,
}


def _readings() -> Iterator[tuple[str, Callable[[_Image], Floats]]]:
    for layout_name, layout in LAYOUTS.items():
        for unit_name, unit in UNITS.items():
            if layout is _xywh and not unit:
                continue

            def read(
                one: _Image, layout: Callable[[Floats], Floats] = layout, unit: float = unit
            ) -> Floats:
                boxes = layout(one.written)
                return boxes * (np.tile(one.size, 2) / unit) if unit else boxes

            yield layout_name + unit_name, read


def _matched(images: list[_Image], read: Callable[[_Image], Floats]) -> int:
    """Ground-truth boxes matched in an interpretation; 0 if it has boxes outside their images."""
    hits = inside = rows = 0
    for one in images:
        boxes = read(one)
        hits += _hits(one, boxes)
        low, high = -SLACK * one.size, (1 + SLACK) * one.size
        fits = (boxes[:, :2] >= low) & (boxes[:, 2:] <= high) & (boxes[:, :2] <= boxes[:, 2:])
        inside += int(fits.all(axis=1).sum())
        rows += len(boxes)
    return hits if inside >= INSIDE * rows else 0


def _hits(one: _Image, boxes: Floats) -> int:
    """Ground-truth boxes with IoU >= 0.5 with a detection of any category."""
    return int((_iou(one.gt, boxes) >= 0.5).any(axis=1).sum())


def _iou(gt: Floats, boxes: Floats) -> Floats:
    low = np.maximum(gt[:, None, :2], boxes[:, :2])
    high = np.minimum(gt[:, None, 2:], boxes[:, 2:])
    cut = (high - low).clip(min=0).prod(axis=2)
    own = (gt[:, 2:] - gt[:, :2]).prod(axis=1)[:, None]
    other = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    union = own + other - cut
    iou: Floats = np.divide(cut, union, out=np.zeros_like(cut), where=union > 0)
    return iou


# --------------------------------------------------------------------------- scales and categories


def _rescaled(images: list[_Image], layout: Callable[[Floats], Floats]) -> tuple[str, int]:
    """The most common factor, over all images or per image, and the number of boxes matched."""
    votes = [_votes(one.gt, layout(one.written)) for one in images]
    best, text = 0, ""
    common = _mode(np.concatenate([np.zeros(0), *votes]))
    if common is not None and abs(common - 1) > 2 * SCALE_STEP:
        best = sum(_hits(one, layout(one.written) / common) for one in images)
        text = f"one factor, about {common:.3g}"
    own = [_mode(v) for v in votes]
    hits = sum(
        _hits(one, layout(one.written) / factor)
        for one, factor in zip(images, own, strict=True)
        if factor is not None
    )
    known = [factor for factor in own if factor is not None]
    if len(known) >= 3 and hits > 1.5 * best:
        spread = f"{min(known):.3g} to {max(known):.3g}"
        best, text = hits, f"a different factor in each image ({spread}), as for resized images"
    return text, best


def _votes(gt: Floats, boxes: Floats) -> Floats:
    """Factors from ground-truth boxes to detections, for pairs in which all sides agree."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = (boxes[:, 2:] - boxes[:, :2]) / (gt[:, None, 2:] - gt[:, None, :2])
        corner = boxes[:, 2:] / gt[:, None, 2:]
        logs = np.log(np.concatenate([size, corner], axis=2))
        mean = logs.mean(axis=2)
        agree = np.isfinite(mean) & (np.abs(logs - mean[..., None]).max(axis=2) < SCALE_STEP)
    return np.asarray(np.exp(mean[agree]))


def _mode(values: Floats) -> float | None:
    """The median of the largest cluster of values."""
    if not len(values):
        return None
    logs = np.sort(np.log(values))
    count = np.searchsorted(logs, logs + 2 * SCALE_STEP, side="right") - np.arange(len(logs))
    first = int(count.argmax())
    return float(np.exp(np.median(logs[first : first + count[first]])))


def _renumbered(images: list[_Image], annotations: AnnotationSet) -> str | None:
    """A description of detections with correct boxes and permuted categories."""
    k = len(annotations.categories)
    pairs = np.zeros((k, k), np.int64)  # written, true
    for one in images:
        iou = _iou(one.gt, _xywh(one.written))
        for n in np.flatnonzero((iou >= 0.5).any(axis=1)).tolist():
            # Any detection of the right category is used; else the one with the best box.
            fits = np.flatnonzero(iou[n] >= 0.5)
            same = (one.labels[fits] == one.gt_labels[n]).any()
            chosen = one.gt_labels[n] if same else one.labels[iou[n].argmax()]
            pairs[chosen, one.gt_labels[n]] += 1
    matched, right = int(pairs.sum()), int(np.trace(pairs))
    most = pairs.max(axis=1)
    moved = int(most[pairs.argmax(axis=1) != np.arange(k)].sum())
    if right * TIMES_BETTER_FITTED > matched or most.sum() < 0.8 * matched or moved < 3:
        return None
    own = int(np.argmax(np.where(pairs.argmax(axis=1) != np.arange(k), most, 0)))
    true = annotations.categories[int(pairs[own].argmax())]
    wrong = annotations.categories[own]
    return (
        f"categories seem to be numbered differently: of {matched} matched ground-truth boxes, "
        f"{right} have the right category; detections of {shown(wrong.name)} (id {wrong.id}) match "
        f"boxes of {shown(true.name)} (id {true.id})"
    )
