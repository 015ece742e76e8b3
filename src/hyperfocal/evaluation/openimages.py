"""Detection metric of the Open Images Challenge 2019: mAP at IoU 0.5, hierarchy, group-of boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfocal.evaluation.evaluator import CategoryMetrics, DetectionMetrics, Floats, nan_mean
from hyperfocal.evaluation.matching import pairs_of_equal_keys
from hyperfocal.types import ConfigError, OpenImagesBoxes, OpenImagesTruth

IOU = 0.5
IMAGES_AT_ONCE = 1000

Ints = NDArray[np.int64]


def evaluate_openimages(
    truth: OpenImagesTruth,
    detections: OpenImagesBoxes,
    *,
    expand_detections: bool = False,
    max_detections: int | None = None,
    train_boxes: Sequence[int] | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> DetectionMetrics:
    """The challenge's metric, with group-of weight 1.

    Boxes and labels verified as present are added for all ancestors, labels verified as absent for
    all descendants. Detections without width or height, and those of a category neither boxed nor
    verified in the image, are dropped. In order of score, a detection is compared only with the box
    of highest IoU: the first with IoU >= 0.5 is a true positive. Other detections with
    intersection / own area >= 0.5 with a group-of box aren't false positives; the best for each
    group-of box is a true positive, the rest are ignored. A group-of box counts as one box. AP is
    the area under the precision envelope over all recalls.

    Args:
        truth: the result of `hyperfocal.data.formats.openimages.read_openimages`.
        detections: ``value`` is the score; ties go to the earlier row.
        expand_detections: add each detection for all ancestors too. The official tool doesn't.
        max_detections: detections used per image; None: all, as in the official tool.
        train_boxes: number of training boxes by label; splits the categories into five groups of
            equal size, in ascending order (ties in label order).
        advance: called with the number of images matched, for a progress bar.

    Returns:
        ``AP50``, and ``AP1`` (rarest) to ``AP5`` with training counts; nan if undefined. A
        category's ``AP`` is nan, because IoU is 0.5 only.

    Raises:
        ConfigError: ``train_boxes`` has other categories.
    """
    k = len(truth.categories)
    if train_boxes is not None and len(train_boxes) != k:
        raise ConfigError(f"training boxes of {len(train_boxes)} categories, but there are {k}")
    boxes, verified = truth.boxes, _verified(truth)
    names = dict.fromkeys((*boxes.names, *(name for name, _ in verified)))
    code = {name: n for n, name in enumerate(names)}
    gt = _rows(boxes, code, k).expanded(truth.ancestors, k).sorted()
    listed = np.array([code[name] * k + label for name, label in verified], np.int64)
    looked_for = np.union1d(gt.key, listed)
    if max_detections is not None:
        detections = _best_of_images(detections, max_detections)
    dt = _rows(detections, code, k).sorted()
    sides = dt.xyxy[:, 2:] - dt.xyxy[:, :2]
    dt = dt.take(np.flatnonzero((sides > 0).all(axis=1)))  # as in the official tool
    steps = np.arange(0, len(code) + IMAGES_AT_ONCE, IMAGES_AT_ONCE)
    ends = np.searchsorted(dt.key, steps * k)
    parts = []
    for first, low, high in zip(steps, ends, ends[1:], strict=False):
        some = dt.take(np.arange(low, high))
        if expand_detections:
            some = some.expanded(truth.ancestors, k).sorted()
        some = some.take(np.isin(some.key, looked_for))
        kept, hit = _match(some, gt)
        parts.append((some.key[kept] % k, some.value[kept], some.row[kept], hit[kept]))
        advance(min(IMAGES_AT_ONCE, len(code) - int(first)))
    label, score, row, hit = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((row, -score, label))
    starts = np.searchsorted(label[order], np.arange(k + 1))
    num_gt = np.bincount(gt.key % k, minlength=k)
    ap = np.full(k, np.nan)
    for c in np.flatnonzero(num_gt).tolist():
        ap[c] = _average(hit[order[starts[c] : starts[c + 1]]], int(num_gt[c]))
    return _summary(truth, ap, num_gt, train_boxes)


def _summary(
    truth: OpenImagesTruth, ap: Floats, num_gt: Ints, train_boxes: Sequence[int] | None
) -> DetectionMetrics:
    metrics = {"AP50": nan_mean(ap)}
    group_of: list[str | None] = [None] * len(ap)
    if train_boxes is not None:
        order = np.argsort(np.array(train_boxes), kind="stable")
        for n, block in enumerate(np.array_split(order, 5), start=1):
            metrics[f"AP{n}"] = nan_mean(ap[block])
            for member in block.tolist():
                group_of[member] = str(n)
    categories = tuple(
        CategoryMetrics(
            each.id, each.name, float("nan"), float(ap[n]), int(num_gt[n]), None, group_of[n]
        )
        for n, each in enumerate(truth.categories)
    )
    return DetectionMetrics(metrics, categories)


def _verified(truth: OpenImagesTruth) -> set[tuple[str, int]]:
    """Image and label of all verified labels, present or absent, after expansion."""
    below: dict[int, list[int]] = defaultdict(list)
    for label, above in enumerate(truth.ancestors):
        for up in above:
            below[up].append(label)
    verified = {(i, up) for i, c in truth.positive for up in (c, *truth.ancestors[c])}
    return verified | {(i, down) for i, c in truth.negative for down in (c, *below[c])}


class _Rows(NamedTuple):
    """Boxes with a key for image and category: image · K + label.

    Attributes:
        key: ``(N,)``.
        xyxy: ``(N, 4)``.
        value: ``(N,)`` group-of or score.
        row: ``(N,)`` position in the file, which breaks ties of score.
    """

    key: Ints
    xyxy: Floats
    value: Floats
    row: Ints

    def take(self, which: NDArray[Any]) -> _Rows:
        """Select rows by index or mask."""
        return _Rows(*(column[which] for column in self))

    def sorted(self) -> _Rows:
        """Sorted by key, then by score, best first."""
        return self.take(np.lexsort((self.row, -self.value, self.key)))

    def expanded(self, ancestors: Sequence[frozenset[int]], k: int) -> _Rows:
        """All boxes, for their own label and all ancestors."""
        wide = [(label, *sorted(above)) for label, above in enumerate(ancestors)]
        size = np.array([len(labels) for labels in wide])
        flat, first = np.concatenate(wide), np.cumsum(size) - size
        image, label = np.divmod(self.key, k)
        count = size[label]
        which = np.repeat(np.arange(len(label)), count)
        within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        return self.take(which)._replace(key=image[which] * k + flat[first[label[which]] + within])


def _rows(boxes: OpenImagesBoxes, code: Mapping[str, int], k: int) -> _Rows:
    """Boxes of the images in ``code``."""
    image = np.array([code.get(name, -1) for name in boxes.names], np.int64)[boxes.image]
    rows = _Rows(image * k + boxes.labels, boxes.xyxy, boxes.value, np.arange(len(image)))
    return rows if (image >= 0).all() else rows.take(image >= 0)


def _best_of_images(boxes: OpenImagesBoxes, most: int) -> OpenImagesBoxes:
    """The best detections of each image (ties go to the earlier), in unchanged order."""
    order = np.lexsort((-boxes.value, boxes.image))
    image = boxes.image[order]
    rank = np.arange(len(order)) - np.searchsorted(image, image, side="left")
    kept = np.sort(order[rank < most])
    columns = (boxes.image[kept], boxes.labels[kept], boxes.xyxy[kept], boxes.value[kept])
    return OpenImagesBoxes(boxes.names, *columns)


def _match(dt: _Rows, gt: _Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each detection isn't ignored, and whether it is a true positive; both sorted."""
    a, b = pairs_of_equal_keys(dt.key, gt.key)
    near, far = dt.xyxy[a], gt.xyxy[b]
    side = np.minimum(near[:, 2:], far[:, 2:]) - np.maximum(near[:, :2], far[:, :2])
    cut = side.clip(min=0).prod(axis=1)
    own, other = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (near, far))
    group = gt.value[b] > 0
    overlap = _ratio(cut, np.where(group, own, own + other - cut))
    hit = np.zeros(len(dt.key), np.bool_)
    hit[_first_of_each(a, b, overlap, (overlap >= IOU) & ~group)[0]] = True
    best, inside = _first_of_each(a, b, overlap, (overlap >= IOU) & group & ~hit[a])
    kept = np.ones(len(dt.key), np.bool_)
    kept[inside] = False
    kept[best] = hit[best] = True
    return kept, hit


def _first_of_each(a: Ints, b: Ints, overlap: Floats, fits: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Detections that are the first of a box, and all detections with a box.

    Each detection is assigned to the box with the highest overlap (ties go to the first).

    Args:
        a: ``(P,)`` detection of each pair.
        b: ``(P,)`` box of each pair.
        overlap: ``(P,)``.
        fits: ``(P,)`` pairs with sufficient overlap.
    """
    a, b, overlap = a[fits], b[fits], overlap[fits]
    order = np.lexsort((b, -overlap, a))
    detection, first = np.unique(a[order], return_index=True)
    _, best = np.unique(b[order][first], return_index=True)
    return detection[best], detection


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _average(hits: NDArray[np.bool_], num_gt: int) -> float:
    """AP of detections in descending order of score."""
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / num_gt)
