"""LVIS's detection metrics (Gupta et al. 2019), v0.5 and v1, for federated annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hyperfocal.evaluation.coco import AREAS
from hyperfocal.evaluation.evaluator import (
    DetectionMetrics,
    Evaluator,
    Floats,
    nan_mean,
    record_xywh,
)
from hyperfocal.evaluation.frequency import FrequencyGroups
from hyperfocal.evaluation.matching import AREA_RANGES, IOU_THRESHOLDS, Boxes, match, out_of_range
from hyperfocal.types import AnnotationSet, CategoryCounts, ConfigError, ImageRecord

RECALLS = np.linspace(0, 1, 101)
IMAGES_AT_ONCE = 1000


class LvisEvaluator(Evaluator):
    """LVIS's 13 box metrics, equal to the ``lvis`` package.

    In this order: the best ``max_detections`` per *image* are kept, over all categories (ties go to
    the earlier); detections of categories that are neither annotated in the image nor in its
    ``neg_category_ids`` are dropped; each category is matched as in COCO; unmatched detections of
    the image's ``not_exhaustive_category_ids`` are ignored. AP is over IoU .50:.05:.95 and 101
    recall points. Crowd boxes are treated like other boxes.

    The metrics have LVIS's names: ``AP AP50 AP75 APs APm APl``, ``APr APc APf`` if groups are
    known, and ``AR@300 ARs@300 ARm@300 ARl@300``, named after ``max_detections``. Categories are
    grouped by their ``frequency`` in the file or, without it, by training images.

    Args:
        annotations: ground truth of the split, read from an LVIS file.
        counts: training frequencies of the same categories, for files without ``frequency``.
        groups: frequency groups for such files.
        max_detections: detections used per image.

    Raises:
        ConfigError: the annotations have no LVIS lists, or ``counts`` has other categories.
    """

    def __init__(
        self,
        annotations: AnnotationSet,
        *,
        counts: CategoryCounts | None = None,
        groups: FrequencyGroups = FrequencyGroups(),  # noqa: B008, frozen
        max_detections: int = 300,
    ) -> None:
        if annotations.federated is None:
            raise ConfigError(
                f"{annotations.source}: the LVIS protocol needs neg_category_ids and "
                "not_exhaustive_category_ids for each image; use --protocol coco, or LVIS's file"
            )
        if max_detections < 1:
            raise ConfigError(f"max_detections = {max_detections}, but it must be at least 1")
        super().__init__(annotations, counts)
        self.max_detections, self._federated = max_detections, annotations.federated
        self.group_names = groups.names
        self._group_of = None if counts is None else groups.assign(counts)
        if annotations.federated.frequency is not None:
            self.group_names, self._group_of = ("r", "c", "f"), annotations.federated.frequency

    def measure(self, advance: Callable[[int], None]) -> DetectionMetrics:
        """See `Evaluator.measure`."""
        ap, recall = self._averages(advance)
        everywhere, ap50 = ap[:, :, 0].mean(axis=1), ap[:, 0, 0]
        metrics = {
            "AP": nan_mean(everywhere),
            "AP50": nan_mean(ap50),
            "AP75": nan_mean(ap[:, 5, 0]),
            **{f"AP{s}": nan_mean(ap[:, :, n].mean(axis=1)) for n, s in enumerate(AREAS) if s},
        }
        if self._group_of is not None:
            group_of = np.array(self._group_of, dtype=object)
            for name in self.group_names:
                metrics[f"AP{name}"] = nan_mean(everywhere[group_of == name])
        for n, s in enumerate(AREAS):
            metrics[f"AR{s}@{self.max_detections}"] = nan_mean(recall[:, :, n].mean(axis=1))
        gt = np.bincount(
            np.concatenate([record.labels for record in self.annotations.images]), minlength=len(ap)
        )
        rows = self.category_rows(everywhere, ap50, gt.tolist(), self._group_of)
        return DetectionMetrics(metrics, rows)

    def _averages(self, advance: Callable[[int], None]) -> tuple[Floats, Floats]:
        """AP and recall, each ``(K, 10, 4)`` by category, IoU threshold and area."""
        records = sorted(self.annotations.images, key=lambda record: record.id)
        k = len(self.annotations.categories)
        parts, num_gt = [], np.zeros((k, len(AREA_RANGES)), np.int64)
        for low in range(0, len(records), IMAGES_AT_ONCE):
            some = records[low : low + IMAGES_AT_ONCE]
            label = np.concatenate([record.labels for record in some])
            area = np.concatenate([record.area for record in some])
            np.add.at(num_gt, label, ~out_of_range(area))
            parts.append(self._outcomes(some))
            advance(len(some))
        label, score, outcome = (np.concatenate(column) for column in zip(*parts, strict=True))
        return _curves(label, score, outcome, num_gt)

    def _outcomes(
        self, records: Sequence[ImageRecord]
    ) -> tuple[NDArray[np.int64], Floats, NDArray[np.int8]]:
        """Label, score and ``(N, 10, 4)`` outcome (1 true, 0 false, -1 ignored) of detections."""
        k, image_ids = len(self.annotations.categories), [record.id for record in records]
        found = [self.found.get(i, np.zeros((0, 6))) for i in image_ids]
        kept = [_best(rows, self.max_detections) for rows in found]
        rows = np.concatenate(kept)
        key = np.repeat(np.arange(len(kept)) * k, [len(r) for r in kept]) + rows[:, 5].astype(int)

        def keys_of(labels: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
            sizes = [len(part) for part in labels]
            return np.repeat(np.arange(len(labels)) * k, sizes) + np.concatenate(labels)

        def listed(lists: Mapping[int, frozenset[int]]) -> NDArray[np.int64]:
            return keys_of([np.array(sorted(lists.get(i, ())), np.int64) for i in image_ids])

        gt_key = keys_of([record.labels for record in records])
        verified = np.isin(key, np.union1d(gt_key, listed(self._federated.negative)))
        rows, key = rows[verified], key[verified]
        order = np.lexsort((-rows[:, 4], key))
        rows, key = rows[order], key[order]
        gt_order = np.argsort(gt_key, kind="stable")
        truth = Boxes(
            gt_key[gt_order],
            np.concatenate([record_xywh(record) for record in records])[gt_order],
            np.concatenate([record.area for record in records])[gt_order],
        )
        area = rows[:, 2] * rows[:, 3]
        hit, ignored = match(Boxes(key, rows[:, :4], area), truth)
        partly = np.isin(key, listed(self._federated.not_exhaustive))
        ignored |= ~hit & (out_of_range(area) | partly[:, None])[:, None, :]
        outcome = hit.astype(np.int8) - ignored.astype(np.int8)
        return key % k, rows[:, 4], outcome


def _best(rows: Floats, most: int) -> Floats:
    if len(rows) <= most:
        return rows
    return rows[np.argsort(-rows[:, 4], kind="stable")[:most]]


def _curves(
    label: NDArray[np.int64], score: Floats, outcome: NDArray[np.int8], num_gt: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """AP and largest recall by category, IoU threshold and area; nan without ground truth."""
    shape = (len(num_gt), len(IOU_THRESHOLDS), len(AREA_RANGES))
    ap, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    # Stable sort: ties stay in the order of images, and of the file within an image.
    order = np.lexsort((-score, label))
    ends = np.searchsorted(label[order], np.arange(len(num_gt) + 1))
    for c in np.flatnonzero(num_gt[:, 0]):
        rows = outcome[order[ends[c] : ends[c + 1]]]
        misses = np.cumsum(rows == 0, axis=0, dtype=np.int32)
        for a in np.flatnonzero(num_gt[c]):
            for t in range(len(IOU_THRESHOLDS)):
                hits = np.flatnonzero(rows[:, t, a] == 1)
                ap[c, t, a], recall[c, t, a] = _average(misses[hits, t, a], int(num_gt[c, a]))
    return ap, recall


def _average(misses: NDArray[np.int32], num_gt: int) -> tuple[float, float]:
    """AP over 101 recall points and largest recall, from the false positives before each hit.

    Precision only increases at hits (true positives), which therefore determine its envelope.
    """
    if not len(misses):
        return 0.0, 0.0
    hits = np.arange(1, len(misses) + 1)
    recall = hits / num_gt
    precision = hits / (misses + hits + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(envelope[at[at < len(hits)]].sum() / len(RECALLS)), float(recall[-1])
