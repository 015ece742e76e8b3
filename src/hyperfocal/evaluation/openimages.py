"""Open Images Challenge 2019's detection metric: mAP at IoU 0.5 with hierarchy and group-of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfocal.evaluation.coco import CategoryMetrics
from hyperfocal.evaluation.store import Floats, nan_mean
from hyperfocal.types import ConfigError, OpenImagesBoxes, OpenImagesTruth

IOU = 0.5


class OpenImagesMetrics(NamedTuple):
    """The numbers of one evaluation.

    Attributes:
        metrics: ``AP50``, and ``AP1`` (rarest) to ``AP5`` with training counts; nan where nothing
            could be measured.
        categories: per category, in the order of the labels; ``AP`` is nan, as IoU is 0.5 only.
    """

    metrics: dict[str, float]
    categories: tuple[CategoryMetrics, ...]


def evaluate_openimages(
    truth: OpenImagesTruth,
    detections: OpenImagesBoxes,
    *,
    expand_detections: bool = False,
    train_boxes: Sequence[int] | None = None,
) -> OpenImagesMetrics:
    """The challenge's metric, with group-of weight 1.

    Boxes and labels verified present count for all ancestors too, labels verified absent for all
    descendants. Detections of a category neither boxed nor verified in the image are dropped. Best
    score first, a detection is compared with the box of highest IoU only: IoU >= 0.5 is a hit the
    first time. Of those that are no hit, ones with intersection / own area >= 0.5 with a group-of
    box are not misses; the best of each group-of box is a hit, the rest are ignored. A group-of box
    counts as one box. AP is the area under the precision envelope over all recalls.

    Detections of several processes are evaluated together by putting their rows one after another.

    Args:
        truth: as `hyperfocal.data.openimages.read_openimages` gives it.
        detections: ``value`` is the score; of equal scores the earlier row comes first.
        expand_detections: give each detection to all ancestors too. The official tool doesn't.
        train_boxes: training boxes by label; categories are then grouped in five blocks of equal
            size by it, ascending (equal counts in the order of the labels).

    Raises:
        ConfigError: ``train_boxes`` of other categories.
    """
    k = len(truth.categories)
    if train_boxes is not None and len(train_boxes) != k:
        raise ConfigError(f"training boxes of {len(train_boxes)} categories, but there are {k}")
    gt = _expanded(truth.boxes, truth.ancestors)
    dt = _expanded(detections, truth.ancestors) if expand_detections else detections
    verified = {(i, up) for i, c in truth.positive for up in (c, *truth.ancestors[c])}
    below: dict[int, list[int]] = defaultdict(list)
    for label, above in enumerate(truth.ancestors):
        for up in above:
            below[up].append(label)
    verified |= {(i, down) for i, c in truth.negative for down in (c, *below[c])}
    gt_rows, dt_rows = _by_image(gt), _by_image(dt)

    num_gt = np.bincount(gt.labels, minlength=k)
    kept: list[list[NDArray[np.int64]]] = [[] for _ in range(k)]
    hits: list[list[NDArray[np.bool_]]] = [[] for _ in range(k)]
    for place, rows in dt_rows.items():
        if place not in gt_rows and place not in verified:
            continue
        own = np.array(gt_rows.get(place, []), np.int64)
        group = gt.value[own] > 0
        found = _match(dt.xyxy[rows], dt.value[rows], gt.xyxy[own[~group]], gt.xyxy[own[group]])
        kept[place[1]].append(np.array(rows, np.int64)[found[0]])
        hits[place[1]].append(found[1])
    ap = np.full(k, np.nan)
    for c in np.flatnonzero(num_gt).tolist():
        row = np.concatenate([np.zeros(0, np.int64), *kept[c]])
        hit = np.concatenate([np.zeros(0, np.bool_), *hits[c]])
        ap[c] = _average(hit[np.lexsort((row, -dt.value[row]))], int(num_gt[c]))
    metrics = {"AP50": nan_mean(ap)}
    group_of: list[str | None] = [None] * k
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
    return OpenImagesMetrics(metrics, categories)


def _expanded(boxes: OpenImagesBoxes, ancestors: Sequence[frozenset[int]]) -> OpenImagesBoxes:
    """Every box for its own label and all ancestors."""
    labels = [(label, *sorted(ancestors[label])) for label in boxes.labels.tolist()]
    row = np.repeat(np.arange(len(labels)), [len(some) for some in labels])
    return OpenImagesBoxes(
        tuple(boxes.images[n] for n in row.tolist()),
        np.array([label for some in labels for label in some], np.int64),
        boxes.xyxy[row],
        boxes.value[row],
    )


def _by_image(boxes: OpenImagesBoxes) -> dict[tuple[str, int], list[int]]:
    rows: dict[tuple[str, int], list[int]] = {}
    for n, place in enumerate(zip(boxes.images, boxes.labels.tolist(), strict=True)):
        rows.setdefault(place, []).append(n)
    return rows


def _match(
    boxes: Floats, scores: Floats, single: Floats, group: Floats
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Index and hit of each detection of one image and category that is not ignored."""
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    hit = np.zeros(len(boxes), np.bool_)
    if len(single):
        cut, area, other = _overlap(boxes, single)
        union = area[:, None] + other - cut
        iou = np.divide(cut, union, out=np.zeros_like(cut), where=union > 0)
        nearest, near = iou.argmax(axis=1), iou.max(axis=1) >= IOU
        _, first = np.unique(np.where(near, nearest, -1), return_index=True)
        hit[first] = near[first]
    if not len(group):
        return order, hit
    cut, area, _ = _overlap(boxes, group)
    part = np.divide(cut, area[:, None], out=np.zeros_like(cut), where=area[:, None] > 0)
    inside = ~hit & (part.max(axis=1) >= IOU)
    # Best score first: the first detection of each group-of box is its best.
    _, first = np.unique(np.where(inside, part.argmax(axis=1), -1), return_index=True)
    best = np.zeros_like(hit)
    best[first] = inside[first]
    kept = ~inside | best
    return order[kept], (hit | best)[kept]


def _overlap(a: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
    """Intersections ``(N, M)`` and both areas."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(axis=1) for box in (a, b))
    return (high - low).clip(min=0).prod(axis=2), area_a, area_b


def _average(hits: NDArray[np.bool_], num_gt: int) -> float:
    """AP of detections in falling order of score."""
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[hits].sum() / num_gt)
