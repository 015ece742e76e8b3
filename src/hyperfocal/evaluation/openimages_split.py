"""Evaluator for the Open Images metric on a split with images, as used in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from hyperfocal.evaluation.evaluator import DetectionMetrics, Evaluator
from hyperfocal.evaluation.openimages import evaluate_openimages
from hyperfocal.types import (
    AnnotationSet,
    CategoryCounts,
    ConfigError,
    OpenImagesBoxes,
    OpenImagesTruth,
)


class OpenImagesEvaluator(Evaluator):
    """`evaluate_openimages` for detections in pixels; crowd boxes are the group-of boxes.

    The metric only compares areas within an image, so pixels give the same results as the fractions
    in the files.

    Args:
        annotations: ground truth of the split, read with image labels and hierarchy.
        counts: training frequencies of the same categories, for AP1 (rarest) to AP5.
        expand_detections: add each detection for all ancestors too. The official tool doesn't.
        max_detections: detections used per image; None: all, as in the official tool.

    Raises:
        ConfigError: the annotations have no labels and hierarchy, or ``counts`` has other
            categories.
    """

    def __init__(
        self,
        annotations: AnnotationSet,
        *,
        counts: CategoryCounts | None = None,
        expand_detections: bool = False,
        max_detections: int | None = None,
    ) -> None:
        if annotations.openimages is None:
            raise ConfigError(
                f"{annotations.source}: the Open Images protocol needs Open Images' boxes (.csv) "
                "with image labels (--data.val.image-labels in training) and hierarchy "
                "(--data.val.hierarchy); use coco"
            )
        super().__init__(annotations, counts)
        self.expand_detections, self.max_detections = expand_detections, max_detections

    def measure(self, advance: Callable[[int], None]) -> DetectionMetrics:
        """See `Evaluator.measure`."""
        metrics, rows = evaluate_openimages(
            self._truth(),
            self._detections(),
            expand_detections=self.expand_detections,
            max_detections=self.max_detections,
            train_boxes=None if self.counts is None else self.counts.instances,
            advance=advance,
        )
        if self.counts is not None:
            pairs = zip(rows, self.counts.images, strict=True)
            rows = tuple(replace(row, train_images=images) for row, images in pairs)
        return DetectionMetrics(metrics, rows)

    def _truth(self) -> OpenImagesTruth:
        annotations, lists = self.annotations, self.annotations.openimages
        assert lists is not None
        records = annotations.images
        boxes = OpenImagesBoxes(
            tuple(str(record.id) for record in records),
            np.repeat(np.arange(len(records)), [len(record.labels) for record in records]),
            np.concatenate([record.labels for record in records]),
            np.concatenate([record.boxes for record in records]),
            np.concatenate([record.crowd for record in records]).astype(np.float64),
        )

        def pairs(labels: Mapping[int, frozenset[int]]) -> frozenset[tuple[str, int]]:
            return frozenset((str(image), one) for image, some in labels.items() for one in some)

        return OpenImagesTruth(
            annotations.source,
            annotations.categories,
            boxes,
            pairs(lists.positive),
            pairs(lists.negative),
            lists.ancestors,
        )

    def _detections(self) -> OpenImagesBoxes:
        found = self.found
        images = sorted(found)
        rows = np.concatenate([np.zeros((0, 6)), *(found[image] for image in images)])
        return OpenImagesBoxes(
            tuple(map(str, images)),
            np.repeat(np.arange(len(images)), [len(found[image]) for image in images]),
            rows[:, 5].astype(np.int64),
            np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1),
            rows[:, 4],
        )
