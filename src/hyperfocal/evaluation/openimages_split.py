"""Open Images' metric on a split that was read with its images, as training measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hyperfocal.evaluation.coco import CategoryMetrics
from hyperfocal.evaluation.openimages import OpenImagesMetrics, evaluate_openimages
from hyperfocal.evaluation.store import DetectionStore, Floats
from hyperfocal.types import (
    AnnotationSet,
    CategoryCounts,
    ConfigError,
    Detections,
    OpenImagesBoxes,
    OpenImagesTruth,
)


class OpenImagesEvaluator:
    """`evaluate_openimages` of detections in pixels; crowd boxes are the group-of boxes.

    The metric compares areas of one image with each other, so that pixels give the same numbers as
    the files' fractions.

    Args:
        annotations: ground truth of the split, read with image labels and hierarchy.
        counts: training frequencies of the same categories, for AP1 (rarest) to AP5.
        expand_detections: give each detection to all ancestors too. The official tool doesn't.

    Raises:
        ConfigError: the annotations have no labels and hierarchy.
    """

    def __init__(
        self,
        annotations: AnnotationSet,
        *,
        counts: CategoryCounts | None = None,
        expand_detections: bool = False,
    ) -> None:
        if annotations.openimages is None:
            raise ConfigError(
                f"{annotations.source}: the Open Images protocol needs Open Images' boxes (.csv) "
                "with image labels and hierarchy; use coco"
            )
        self.annotations, self.counts = annotations, counts
        self.expand_detections = expand_detections
        self._store = DetectionStore(annotations)
        self._result: OpenImagesMetrics | None = None

    def update(self, detections: Sequence[Detections], image_ids: Sequence[int]) -> None:
        """Add the detections of some images, in original pixels, each image once.

        Raises:
            DataError: see `DetectionStore.update`.
        """
        self._store.update(detections, image_ids)
        self._result = None

    def state(self) -> dict[int, Floats]:
        """What came so far, for `merge`: ``(N, 6)`` x, y, width, height, score, label by image."""
        return self._store.state()

    def merge(self, state: Mapping[int, Floats]) -> None:
        """Add the `state` of another process's evaluator.

        Raises:
            DataError: see `DetectionStore.update`.
        """
        self._store.merge(state)
        self._result = None

    def compute(self, advance: Callable[[int], None] = lambda images: None) -> dict[str, float]:
        """``AP50``, and ``AP1`` to ``AP5`` where frequencies are known; nan where unmeasurable.

        Args:
            advance: called with the number of images matched, for a progress bar.
        """
        return self._evaluated(advance).metrics

    def per_category(self) -> tuple[CategoryMetrics, ...]:
        """The metrics of every category, in the order of the labels."""
        rows = self._evaluated(lambda images: None).categories
        if self.counts is None:
            return rows
        pairs = zip(rows, self.counts.images, strict=True)
        return tuple(replace(row, train_images=images) for row, images in pairs)

    def _evaluated(self, advance: Callable[[int], None]) -> OpenImagesMetrics:
        if self._result is None:
            self._result = evaluate_openimages(
                self._truth(),
                self._detections(),
                expand_detections=self.expand_detections,
                train_boxes=None if self.counts is None else self.counts.instances,
                advance=advance,
            )
        return self._result

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
        found = self._store.state()
        images = sorted(found)
        rows = np.concatenate([np.zeros((0, 6)), *(found[image] for image in images)])
        return OpenImagesBoxes(
            tuple(map(str, images)),
            np.repeat(np.arange(len(images)), [len(found[image]) for image in images]),
            rows[:, 5].astype(np.int64),
            np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1),
            rows[:, 4],
        )
