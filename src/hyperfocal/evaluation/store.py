"""Detections of a split as they come, image by image; what every evaluator starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hyperfocal.types import AnnotationSet, DataError, Detections

Floats = NDArray[np.float64]


class DetectionStore:
    """Checked detections by image id, as ``(N, 6)`` rows x, y, width, height, score, label.

    Attributes:
        annotations: ground truth of the split.
        row_of: image id -> its rank among the ids; evaluators break ties of score by it, as
            pycocotools and lvis do.
        found: rows by image id.

    Args:
        annotations: ground truth of the split.
    """

    def __init__(self, annotations: AnnotationSet) -> None:
        self.annotations = annotations
        ids = sorted(record.id for record in annotations.images)
        self.row_of = {image_id: row for row, image_id in enumerate(ids)}
        self.found: dict[int, Floats] = {}

    def update(self, detections: Sequence[Detections], image_ids: Sequence[int]) -> None:
        """Add the detections of some images, in original pixels, each image once.

        Raises:
            DataError: an image id that isn't in the annotations or came before, a label that is no
                category, or a box or score that isn't finite.
        """
        for image_id, found in zip(image_ids, detections, strict=True):
            self._add(int(image_id), self._as_rows(found, int(image_id)))

    def state(self) -> dict[int, Floats]:
        """What came so far, for `merge`."""
        return dict(self.found)

    def merge(self, state: Mapping[int, Floats]) -> None:
        """Add the `state` of another process's store.

        Raises:
            DataError: as `update`.
        """
        for image_id, rows in state.items():
            self._add(image_id, rows)

    def _as_rows(self, found: Detections, image_id: int) -> Floats:
        boxes = found.boxes.detach().cpu().double().numpy().reshape(-1, 4)
        scores = found.scores.detach().cpu().double().numpy()
        labels = found.labels.detach().cpu().numpy()
        k = len(self.annotations.categories)
        if ((labels < 0) | (labels >= k)).any():
            wrong = labels[(labels < 0) | (labels >= k)][0]
            raise DataError(f"image {image_id}: label {wrong} detected, but labels are 0..{k - 1}")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise DataError(f"image {image_id}: a detected box or score is not a finite number")
        return np.column_stack([xywh(boxes), scores, labels])

    def _add(self, image_id: int, rows: Floats) -> None:
        if image_id not in self.row_of:
            raise DataError(
                f"image id {image_id} was detected in, but {self.annotations.source} has no such "
                "image; are these the detections of another split?"
            )
        if image_id in self.found:
            raise DataError(f"image id {image_id}: its detections were given twice")
        self.found[image_id] = rows


def xywh(boxes: Floats) -> Floats:
    """COCO's x, y, width, height from xyxy.

    Rounded to a billionth of a pixel, which undoes the error of (x + w) - x: a width that was
    written with up to nine decimals comes back to the last bit, so that an IoU on a threshold
    stays there.
    """
    return np.concatenate([boxes[:, :2], np.round(boxes[:, 2:] - boxes[:, :2], 9)], axis=1)


def nan_mean(values: Floats) -> float:
    """Mean of what is there; nan where nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")
