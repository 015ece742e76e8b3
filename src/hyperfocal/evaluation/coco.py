"""COCO's detection metrics, overall, per category and per frequency group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperfocal.evaluation.evaluator import (
    DetectionMetrics,
    Evaluator,
    Floats,
    nan_mean,
    record_xywh,
)
from hyperfocal.evaluation.frequency import FrequencyGroups
from hyperfocal.types import AnnotationSet, CategoryCounts, ConfigError

AREAS = {"": "all", "s": "small", "m": "medium", "l": "large"}
"""Suffix of a metric's name -> area range: below 32², 32² to 96², above 96² px²."""

BLOCK = 100
"""Number of categories matched at a time."""


class CocoEvaluator(Evaluator):
    """COCO's 12 box metrics, and AP by training frequency.

    The matching is that of faster-coco-eval, equal to pycocotools: greedy by score at IoU
    .50:.05:.95, 101 recall points, the best ``max_detections`` per image *and category*, crowd
    boxes ignored. If the ground truth has an ``area`` (COCO's mask area), it determines whether an
    object is small, medium or large.

    COCO's metrics are ``AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl`` (``AR100`` is named
    after ``max_detections``); with training counts also ``APr APc APf`` and ``AP50r AP50c AP50f``,
    named after the groups. Each is a mean over categories with ground truth; without any (COCO's
    -1) it is nan.

    Examples:
        >>> evaluator = CocoEvaluator(val, counts=train.counts())  # doctest: +SKIP
        >>> evaluator.update(detections, batch.image_ids)  # doctest: +SKIP
        >>> evaluator.compute()["APr"]  # doctest: +SKIP
        0.091

    Args:
        annotations: ground truth of the split.
        counts: training frequencies of the same categories; None: without APr, APc, ...
        groups: frequency groups by number of training images.
        max_detections: detections used per image and category, more than 10; COCO's is 100.

    Raises:
        ConfigError: ``counts`` has other categories, or ``max_detections`` is too small.
    """

    def __init__(
        self,
        annotations: AnnotationSet,
        *,
        counts: CategoryCounts | None = None,
        groups: FrequencyGroups = FrequencyGroups(),  # noqa: B008, frozen
        max_detections: int = 100,
    ) -> None:
        super().__init__(annotations, counts)
        if max_detections <= 10:
            raise ConfigError(f"max_detections = {max_detections}, but it must be more than 10")
        self.groups, self.max_detections = groups, max_detections

    def measure(self, advance: Callable[[int], None]) -> DetectionMetrics:
        """See `Evaluator.measure`."""
        k = len(self.annotations.categories)
        most = self.max_detections
        curves = _match(self._gt_rows(), self._dt_rows(), k, most)
        advance(len(self.annotations.images))
        ap, ap50 = curves.ap(), curves.ap(iou=0.5)
        metrics = {
            "AP": nan_mean(ap),
            "AP50": nan_mean(ap50),
            "AP75": nan_mean(curves.ap(iou=0.75)),
            **{f"AP{a}": nan_mean(curves.ap(area=a)) for a in AREAS if a},
            **{f"AR{n}": nan_mean(curves.ar(cut=i)) for i, n in enumerate((1, 10, most))},
            **{f"AR{a}": nan_mean(curves.ar(area=a)) for a in AREAS if a},
        }
        group_of = None if self.counts is None else self.groups.assign(self.counts)
        if group_of is not None:
            groups = np.array(group_of, dtype=object)
            for prefix, values in (("AP", ap), ("AP50", ap50)):
                for name in self.groups.names:
                    metrics[f"{prefix}{name}"] = nan_mean(values[groups == name])
        gt = self.annotations.counts().instances
        return DetectionMetrics(metrics, self.category_rows(ap, ap50, gt, group_of))

    def _gt_rows(self) -> list[dict[str, Any]]:
        """Ground truth as COCO annotations, with image rows and labels instead of ids."""
        rows: list[dict[str, Any]] = []
        for record in self.annotations.images:
            columns = (record_xywh(record), record.labels, record.crowd, record.area)
            for box, label, crowd, area in zip(*(c.tolist() for c in columns), strict=True):
                rows.append(
                    {
                        "id": len(rows) + 1,
                        "image_id": self.row_of[record.id],
                        "category_id": label,
                        "bbox": box,
                        "area": area,
                        "iscrowd": int(crowd),
                    }
                )
        return rows

    def _dt_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for image_id, found in self.found.items():
            for x, y, w, h, score, label in found.tolist():
                rows.append(
                    {
                        "id": len(rows) + 1,
                        "image_id": self.row_of[image_id],
                        "category_id": int(label),
                        "bbox": [x, y, w, h],
                        "score": score,
                        "area": w * h,
                        "iscrowd": 0,
                    }
                )
        return rows


@dataclass(frozen=True)
class _Curves:
    """Precision and recall; -1 where a category has no ground truth in an area range.

    Attributes:
        precision: ``(10, 101, K, 4, 3)`` by IoU, recall, category, area and maximum detections.
        recall: ``(10, K, 4, 3)`` largest recall.
    """

    precision: Floats
    recall: Floats

    def ap(self, iou: float | None = None, area: str = "") -> Floats:
        """``(K,)`` average precision; nan without ground truth."""
        part = slice(None) if iou is None else [round((iou - 0.5) / 0.05)]
        values = self.precision[part, :, :, list(AREAS).index(area), -1]
        return _absent_as_nan(values.mean(axis=(0, 1)))

    def ar(self, cut: int = -1, area: str = "") -> Floats:
        """``(K,)`` recall averaged over IoU thresholds; nan without ground truth."""
        return _absent_as_nan(self.recall[:, :, list(AREAS).index(area), cut].mean(axis=0))


def _match(
    gt: list[dict[str, Any]], dt: list[dict[str, Any]], num_categories: int, max_detections: int
) -> _Curves:
    """Match and accumulate for a block of categories at a time.

    faster-coco-eval allocates memory for every image, category and area, even without detections:
    over a megabyte per image with LVIS's 1203 categories. A category's metrics don't depend on
    other categories or on images without it.
    """
    curves = _Curves(
        np.full((10, 101, num_categories, 4, 3), -1.0), np.full((10, num_categories, 4, 3), -1.0)
    )
    blocks: dict[int, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    for side, rows in enumerate((gt, dt)):
        for row in rows:
            blocks.setdefault(row["category_id"] // BLOCK, ([], []))[side].append(row)
    for block, (own_gt, own_dt) in blocks.items():
        labels = range(block * BLOCK, min((block + 1) * BLOCK, num_categories))
        part = slice(labels.start, labels.stop)
        found = _match_block(own_gt, own_dt, labels, max_detections)
        curves.precision[:, :, part] = found.precision
        curves.recall[:, part] = found.recall
    return curves


def _match_block(
    gt: list[dict[str, Any]], dt: list[dict[str, Any]], labels: range, max_detections: int
) -> _Curves:
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    images = [{"id": row} for row in sorted({row["image_id"] for row in gt + dt})]
    categories = [{"id": label} for label in labels]
    sets = []
    for rows in (gt, dt):
        coco = COCO(print_function=_silent)
        coco.dataset = {"images": images, "categories": categories, "annotations": rows}
        coco.createIndex()
        sets.append(coco)
    evaluation = COCOeval_faster(*sets, iouType="bbox", print_function=_silent)
    evaluation.params.maxDets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    return _Curves(
        np.asarray(evaluation.eval["precision"], dtype=np.float64),
        np.asarray(evaluation.eval["recall"], dtype=np.float64),
    )


def _silent(*_: object) -> None:
    """Replacement for print."""


def _absent_as_nan(values: Floats) -> Floats:
    # Precision and recall are -1 either everywhere or nowhere.
    return np.where(values < 0, np.nan, values)
