"""COCO's detection metrics, overall, per category and per group of training frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperfocal.evaluation.frequency import FrequencyGroups
from hyperfocal.evaluation.store import DetectionStore, Floats, nan_mean, xywh
from hyperfocal.types import AnnotationSet, CategoryCounts, ConfigError, Detections

AREAS = {"": "all", "s": "small", "m": "medium", "l": "large"}
"""Letter in a metric's name -> area range: below 32², 32² to 96², above 96² px²."""


@dataclass(frozen=True)
class CategoryMetrics:
    """How well one category was found.

    Attributes:
        id: the category's own id.
        name: the category's name.
        AP: mean over IoU thresholds .50:.05:.95; nan without ground truth in this split.
        AP50: at IoU .50.
        gt: ground-truth boxes in this split, crowds left out.
        train_images: training images that hold the category; None if unknown.
        group: frequency group, such as ``"r"``; None if unknown or never seen in training.
    """

    id: int
    name: str
    AP: float
    AP50: float
    gt: int
    train_images: int | None
    group: str | None


class CocoEvaluator:
    """COCO's 12 numbers, and AP by training frequency, for boxes.

    The matching is faster-coco-eval's, equal to pycocotools: greedy by score at IoU .50:.05:.95,
    101 recall points, the best ``max_detections`` of each image *and category*, crowd boxes
    ignored. Where ground truth has an ``area``, that (COCO's mask area) decides small, medium or
    large.

    Detections come with `update`; an image that never comes counts as one without detections.
    Over several processes, either gather the detections and update one evaluator, or `merge` the
    `state` of each process's evaluator into one.

    Example:
        >>> evaluator = CocoEvaluator(val, counts=train.counts())  # doctest: +SKIP
        >>> evaluator.update(detections, batch.image_ids)  # doctest: +SKIP
        >>> evaluator.compute()["APr"]  # doctest: +SKIP
        0.091

    Args:
        annotations: ground truth of the split.
        counts: training frequencies of the same categories. None leaves out APr, APc, ...
        groups: how categories are grouped by training images.
        max_detections: best detections used per image and category, more than 10; COCO's is 100.

    Raises:
        ConfigError: ``counts`` is of other categories, or ``max_detections`` too small.
    """

    def __init__(
        self,
        annotations: AnnotationSet,
        *,
        counts: CategoryCounts | None = None,
        groups: FrequencyGroups = FrequencyGroups(),  # noqa: B008, frozen
        max_detections: int = 100,
    ) -> None:
        self.annotations = annotations
        self.counts = counts
        self.groups = groups
        self.max_detections = max_detections
        if counts is not None and len(counts.images) != len(annotations.categories):
            raise ConfigError(
                f"counts of {len(counts.images)} training categories for {annotations.source} with "
                f"{len(annotations.categories)}; the two splits must share their categories"
            )
        if max_detections <= 10:
            raise ConfigError(f"max_detections = {max_detections}, but it must be more than 10")
        self._store = DetectionStore(annotations)
        self._curves: _Curves | None = None

    def update(self, detections: Sequence[Detections], image_ids: Sequence[int]) -> None:
        """Add the detections of some images, in original pixels, each image once.

        Raises:
            DataError: an image id that isn't in the annotations or came before, a label that is no
                category, or a box or score that isn't finite.
        """
        self._store.update(detections, image_ids)
        self._curves = None

    def state(self) -> dict[int, Floats]:
        """What came so far, for `merge`: ``(N, 6)`` x, y, width, height, score, label by image."""
        return self._store.state()

    def merge(self, state: Mapping[int, Floats]) -> None:
        """Add the `state` of another process's evaluator.

        Raises:
            DataError: as `update`.
        """
        self._store.merge(state)
        self._curves = None

    def compute(self) -> dict[str, float]:
        """The metrics by name, in [0, 1].

        COCO's twelve, ``AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl`` (``AR100`` is named
        after ``max_detections``), and with training counts ``APr APc APf`` and ``AP50r AP50c
        AP50f`` by the names of the groups. Each is a mean over categories with ground truth; where
        there are none (COCO's -1) it is nan.
        """
        curves, most = self._evaluated(), self.max_detections
        metrics = {
            "AP": nan_mean(curves.ap()),
            "AP50": nan_mean(curves.ap(iou=0.5)),
            "AP75": nan_mean(curves.ap(iou=0.75)),
            **{f"AP{a}": nan_mean(curves.ap(area=a)) for a in AREAS if a},
            **{f"AR{n}": nan_mean(curves.ar(cut=i)) for i, n in enumerate((1, 10, most))},
            **{f"AR{a}": nan_mean(curves.ar(area=a)) for a in AREAS if a},
        }
        if self.counts is not None:
            group_of = np.array(self.groups.assign(self.counts), dtype=object)
            ap, ap50 = curves.ap(), curves.ap(iou=0.5)
            for prefix, values in (("AP", ap), ("AP50", ap50)):
                for name in self.groups.names:
                    metrics[f"{prefix}{name}"] = nan_mean(values[group_of == name])
        return metrics

    def per_category(self) -> tuple[CategoryMetrics, ...]:
        """The metrics of every category, in the order of the labels."""
        curves, counts = self._evaluated(), self.counts
        group_of = None if counts is None else self.groups.assign(counts)
        gt = self.annotations.counts().instances
        return tuple(
            CategoryMetrics(
                id=category.id,
                name=category.name,
                AP=ap,
                AP50=ap50,
                gt=gt[label],
                train_images=None if counts is None else counts.images[label],
                group=None if group_of is None else group_of[label],
            )
            for label, (category, ap, ap50) in enumerate(
                zip(
                    self.annotations.categories,
                    curves.ap().tolist(),
                    curves.ap(iou=0.5).tolist(),
                    strict=True,
                )
            )
        )

    def _evaluated(self) -> _Curves:
        if self._curves is None:
            self._curves = _match(
                self._gt_rows(), self._dt_rows(), self._sizes(), self.max_detections
            )
        return self._curves

    def _sizes(self) -> tuple[int, int]:
        return len(self._store.row_of), len(self.annotations.categories)

    def _gt_rows(self) -> list[dict[str, Any]]:
        """Ground truth as COCO's annotations, with image rows and labels in place of ids."""
        rows: list[dict[str, Any]] = []
        for record in self.annotations.images:
            columns = (xywh(record.boxes), record.labels, record.crowd, record.area)
            for box, label, crowd, area in zip(*(c.tolist() for c in columns), strict=True):
                rows.append(
                    {
                        "id": len(rows) + 1,
                        "image_id": self._store.row_of[record.id],
                        "category_id": label,
                        "bbox": box,
                        "area": area,
                        "iscrowd": int(crowd),
                    }
                )
        return rows

    def _dt_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for image_id, found in self._store.found.items():
            for x, y, w, h, score, label in found.tolist():
                rows.append(
                    {
                        "id": len(rows) + 1,
                        "image_id": self._store.row_of[image_id],
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
    """What matching leaves: -1 where a category has no ground truth in an area range.

    Attributes:
        precision: ``(10, 101, K, 4, 3)`` by IoU, recall, category, area and detections used.
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
    gt: list[dict[str, Any]],
    dt: list[dict[str, Any]],
    sizes: tuple[int, int],
    max_detections: int,
) -> _Curves:
    from faster_coco_eval import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    num_images, k = sizes
    if not num_images or not k:
        return _Curves(np.full((10, 101, k, 4, 3), -1.0), np.full((10, k, 4, 3), -1.0))
    images = [{"id": row} for row in range(num_images)]
    categories = [{"id": label} for label in range(k)]
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
    """In place of print."""


def _absent_as_nan(values: Floats) -> Floats:
    # Precision and recall are -1 all over or nowhere.
    return np.where(values < 0, np.nan, values)
