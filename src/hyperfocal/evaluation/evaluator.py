"""Base class of evaluators, which collect the detections of a split and compute its metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfocal.types import (
    AnnotationSet,
    CategoryCounts,
    ConfigError,
    DataError,
    Detections,
    ImageRecord,
)
from hyperfocal.xywh import as_xywh

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CategoryMetrics:
    """Metrics of one category.

    Attributes:
        id: the category's id in the annotations.
        name: the category's name.
        AP: mean over IoU thresholds .50:.05:.95; nan without ground truth in this split.
        AP50: at IoU .50.
        gt: number of ground-truth boxes in this split; without crowd boxes for COCO's protocol.
        train_images: number of training images with the category; None if unknown.
        group: frequency group, such as ``"r"``; None if unknown or not in training.
    """

    id: int
    name: str
    AP: float
    AP50: float
    gt: int
    train_images: int | None
    group: str | None


class DetectionMetrics(NamedTuple):
    """The results of an evaluation.

    Attributes:
        metrics: by name, in [0, 1]; nan if undefined.
        categories: per category, in label order.
    """

    metrics: dict[str, float]
    categories: tuple[CategoryMetrics, ...]


class Evaluator(ABC):
    """Collects the detections of a split and computes its metrics.

    They are stored by image id as ``(N, 6)`` rows x, y, width, height, score, label. Images that
    aren't passed to `update` count as images without detections. With several processes, either
    gather the detections and update one evaluator, or `merge` the `state` of all evaluators into
    one.

    For a custom metric, define a subclass with `measure` (docs/extend.md).

    Attributes:
        annotations: ground truth of the split.
        counts: training frequencies of its categories, or None.
        found: detections so far by image id.
        row_of: rank of each image id among all image ids.

    Args:
        annotations: ground truth of the split.
        counts: training frequencies of the same categories.

    Raises:
        ConfigError: ``counts`` has other categories.
    """

    def __init__(self, annotations: AnnotationSet, counts: CategoryCounts | None) -> None:
        if counts is not None and len(counts.images) != len(annotations.categories):
            raise ConfigError(
                f"counts of {len(counts.images)} training categories for {annotations.source} with "
                f"{len(annotations.categories)}; the two splits must share their categories"
            )
        self.annotations, self.counts = annotations, counts
        # Ties of score go to the lower image id, as in pycocotools and lvis.
        ids = sorted(record.id for record in annotations.images)
        self.row_of = {image_id: row for row, image_id in enumerate(ids)}
        self.found: dict[int, Floats] = {}
        self._result: DetectionMetrics | None = None

    def compute(self, advance: Callable[[int], None] = lambda images: None) -> dict[str, float]:
        """The metrics by name, in [0, 1]; nan if undefined.

        Args:
            advance: called with the number of images matched, for a progress bar.
        """
        return dict(self._measured(advance).metrics)

    def per_category(self) -> tuple[CategoryMetrics, ...]:
        """The metrics of each category, in label order."""
        return self._measured(lambda images: None).categories

    @abstractmethod
    def measure(self, advance: Callable[[int], None]) -> DetectionMetrics:
        """The metrics of ``found``.

        Args:
            advance: call it with the number of images matched, for a progress bar.
        """

    def _measured(self, advance: Callable[[int], None]) -> DetectionMetrics:
        if self._result is None:
            self._result = self.measure(advance)
        return self._result

    def category_rows(
        self, ap: Floats, ap50: Floats, gt: Sequence[int], group_of: Sequence[str | None] | None
    ) -> tuple[CategoryMetrics, ...]:
        """One row per category.

        Args:
            ap: ``(K,)``; nan if undefined.
            ap50: likewise.
            gt: number of boxes of each category in this split.
            group_of: frequency group of each category; None if there are no groups.
        """
        counts = self.counts
        return tuple(
            CategoryMetrics(
                id=category.id,
                name=category.name,
                AP=float(ap[label]),
                AP50=float(ap50[label]),
                gt=gt[label],
                train_images=None if counts is None else counts.images[label],
                group=None if group_of is None else group_of[label],
            )
            for label, category in enumerate(self.annotations.categories)
        )

    def update(self, detections: Sequence[Detections], image_ids: Sequence[int]) -> None:
        """Add the detections of some images in original pixels; call it once for each image.

        Raises:
            DataError: an image id that isn't in the annotations or was added before, a label that
                isn't a category, or a box or score that isn't finite.
        """
        for image_id, found in zip(image_ids, detections, strict=True):
            self._add(int(image_id), self._as_rows(found, int(image_id)))

    def state(self) -> dict[int, Floats]:
        """The detections so far, for `merge`: rows by image id."""
        return dict(self.found)

    def merge(self, state: Mapping[int, Floats]) -> None:
        """Add the `state` of another process's evaluator.

        Raises:
            DataError: as for `update`.
        """
        for image_id, rows in state.items():
            self._add(image_id, rows)

    def _as_rows(self, found: Detections, image_id: int) -> Floats:
        boxes = found.boxes.detach().cpu().double().numpy().reshape(-1, 4)
        xywh = as_xywh(boxes) if found.xywh is None else found.xywh.cpu().double().numpy()
        scores = found.scores.detach().cpu().double().numpy()
        labels = found.labels.detach().cpu().numpy()
        k = len(self.annotations.categories)
        if ((labels < 0) | (labels >= k)).any():
            wrong = labels[(labels < 0) | (labels >= k)][0]
            raise DataError(f"image {image_id}: label {wrong} detected, but labels are 0..{k - 1}")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise DataError(f"image {image_id}: a detected box or score is not a finite number")
        return np.column_stack([xywh, scores, labels])

    def _add(self, image_id: int, rows: Floats) -> None:
        if image_id not in self.row_of:
            raise DataError(
                f"image id {image_id} has detections, but {self.annotations.source} has no such "
                "image; are these the detections of another split?"
            )
        if image_id in self.found:
            raise DataError(f"image id {image_id}: detections were added twice")
        self.found[image_id] = rows
        self._result = None


def record_xywh(record: ImageRecord) -> Floats:
    """``(N, 4)`` x, y, width, height of an image's boxes, with the digits in the file if known."""
    return as_xywh(record.boxes) if record.xywh is None else record.xywh


def nan_mean(values: Floats) -> float:
    """Mean of the values that aren't nan; nan if there are none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
