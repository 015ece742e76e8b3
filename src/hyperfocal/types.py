"""Data types shared by the packages.

Label convention: ``0..K-1`` a category, ``K`` background, ``-1`` ignored.
Box convention: float ``(x1, y1, x2, y2)`` in pixels, half-open, no "+1 pixel".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:  # only for annotations: the losses don't need NumPy
    import numpy as np
    from numpy.typing import NDArray

IGNORED = -1
"""Label of a prior that is excluded from loss, gradient and counts."""


class HyperfocalError(Exception):
    """An error that the user can fix; the message names the value, the file and the fix.

    The command line prints only the message and exits with status 2.
    """


class ConfigError(HyperfocalError, ValueError):
    """An invalid or unknown setting."""


class DataError(HyperfocalError, ValueError):
    """Annotations or images that can't be used."""


class HyperfocalWarning(UserWarning):
    """Input was corrected or skipped, or looks wrong; the run continues."""


# --------------------------------------------------------------------------- annotations


@dataclass(frozen=True)
class Category:
    """One category: its name and its id in the annotation file."""

    id: int
    name: str


class ImageSource(Protocol):
    """Reads images that are not files, such as the items of a torch Dataset."""

    def sample(self, record: ImageRecord, seed: int | None = None) -> Sample:
        """The image of ``record`` and its ground truth.

        Args:
            record: an image of this source.
            seed: random seed of the source's augmentation; None: not seeded.

        Raises:
            DataError: the image can't be read.
        """


@dataclass(frozen=True)
class ImageRecord:
    """The checked ground truth of one image, in the frame of the displayed image.

    Attributes:
        id: image id in the annotation file (numbered from 1 for formats without ids).
        path: the image file; with a ``source``, the name of the image in messages.
        height: pixels, after EXIF rotation.
        width: pixels, after EXIF rotation.
        boxes: ``(N, 4)`` float64 xyxy pixels.
        labels: ``(N,)`` int64 in ``0..K-1`` (an index into ``AnnotationSet.categories``).
        crowd: ``(N,)`` bool; a crowd box covers a group. Not used in training, ignored in
            evaluation.
        area: ``(N,)`` float64 px²; the mask's area if the file has one, else the box's.
        source: reads the image if it isn't a file; None: ``path`` is read.
        xywh: ``(N, 4)`` float64 x, y, width, height as in the file, if `as_xywh` of ``boxes``
            differs in the last digits; else None.
    """

    id: int
    path: Path
    height: int
    width: int
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    source: ImageSource | None = None
    xywh: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Federated:
    """Federated annotations of LVIS: each image is annotated for some of the categories only.

    Attributes:
        negative: image id -> labels verified to be absent from it.
        not_exhaustive: image id -> labels of which some instances have no box.
        frequency: ``"r"``, ``"c"`` or ``"f"`` by label, from the file; None if it isn't there.
    """

    negative: dict[int, frozenset[int]]
    not_exhaustive: dict[int, frozenset[int]]
    frequency: tuple[str | None, ...] | None


@dataclass(frozen=True)
class OpenImagesLists:
    """Image-level labels and hierarchy of Open Images; labels aren't expanded by the hierarchy.

    Attributes:
        positive: image id -> labels verified to be present.
        negative: image id -> labels verified to be absent.
        ancestors: by label, the labels of all its ancestors.
    """

    positive: dict[int, frozenset[int]]
    negative: dict[int, frozenset[int]]
    ancestors: tuple[frozenset[int], ...]


@dataclass(frozen=True)
class AnnotationSet:
    """An annotated split, read from any format.

    Attributes:
        source: the file or folder.
        categories: in label order.
        images: with their boxes.
        federated: None unless the file has LVIS's lists of verified categories.
        openimages: None unless read from Open Images' files with labels and hierarchy.
    """

    source: Path
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]
    federated: Federated | None = None
    openimages: OpenImagesLists | None = None

    def counts(self) -> CategoryCounts:
        """Images and (non-crowd) boxes per category."""
        import numpy as np

        k = len(self.categories)
        images = np.zeros(k, dtype=np.int64)
        instances = np.zeros(k, dtype=np.int64)
        for record in self.images:
            labels = record.labels[~record.crowd]
            instances += np.bincount(labels, minlength=k)
            images[np.unique(labels)] += 1
        return CategoryCounts(
            images=tuple(images.tolist()),
            instances=tuple(instances.tolist()),
            num_images=len(self.images),
        )


@dataclass(frozen=True)
class CategoryCounts:
    """Images and boxes per category in the training split.

    Used by losses that weight categories, samplers that repeat images and metrics that group
    categories by frequency.

    Attributes:
        images: training images that contain the category, per category.
        instances: training boxes of the category, per category (without crowd boxes).
        num_images: images in the split.
    """

    images: tuple[int, ...]
    instances: tuple[int, ...]
    num_images: int


@dataclass(frozen=True)
class OpenImagesBoxes:
    """Boxes as in the files of Open Images, one row per box.

    Attributes:
        names: image ids, each once.
        image: ``(N,)`` int64, index in ``names``.
        labels: ``(N,)`` int64 in ``0..K-1``.
        xyxy: ``(N, 4)`` float64, fractions of the image's width and height.
        value: ``(N,)`` float64; for ground truth 1 if it is a group-of box, for detections the
            score.
    """

    names: tuple[str, ...]
    image: NDArray[np.int64]
    labels: NDArray[np.int64]
    xyxy: NDArray[np.float64]
    value: NDArray[np.float64]


@dataclass(frozen=True)
class OpenImagesTruth:
    """Ground truth of an Open Images split; labels aren't expanded by the hierarchy.

    Attributes:
        source: the file of boxes.
        categories: in label order.
        boxes: the boxes; ``value`` is 1 for group-of boxes.
        positive: image id and label, verified to be present.
        negative: image id and label, verified to be absent.
        ancestors: by label, the labels of all its ancestors.
    """

    source: Path
    categories: tuple[Category, ...]
    boxes: OpenImagesBoxes
    positive: frozenset[tuple[str, int]]
    negative: frozenset[tuple[str, int]]
    ancestors: tuple[frozenset[int], ...]


# --------------------------------------------------------------------------- one batch


@dataclass(frozen=True)
class Target:
    """Ground truth of one image, in the frame of its image tensor.

    Attributes:
        boxes: ``(N, 4)`` float32 xyxy pixels.
        labels: ``(N,)`` int64 in ``0..K-1``.
    """

    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Target:
        """Both tensors on ``device``."""
        return Target(
            self.boxes.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class Sample:
    """One image with its ground truth, as passed through the transforms.

    Attributes:
        image: ``(3, H, W)`` uint8 RGB.
        target: boxes in the frame of ``image``.
        image_id: id in the annotation file.
        original_hw: size of the displayed image, before any transform.
    """

    image: Tensor
    target: Target
    image_id: int
    original_hw: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Images of one step, padded at the right and bottom to the same size.

    Attributes:
        images: ``(B, 3, H, W)`` uint8, or float in [0, 1]; RGB. The detector normalises.
        valid_hw: ``(B, 2)`` int64, height and width of each image without its padding.
        original_hw: ``(B, 2)`` int64, size before any transform.
        targets: one per image, in the frame of ``images``.
        image_ids: ids in the annotation file.
    """

    images: Tensor
    valid_hw: Tensor
    original_hw: Tensor
    targets: tuple[Target, ...]
    image_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, part: slice) -> Batch:
        """The images of a slice, with the same padding (a micro-batch)."""
        return Batch(
            self.images[part],
            self.valid_hw[part],
            self.original_hw[part],
            self.targets[part],
            self.image_ids[part],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Images and targets on ``device``; the sizes stay on the CPU."""
        return Batch(
            self.images.to(device, non_blocking=non_blocking),
            self.valid_hw,
            self.original_hw,
            tuple(t.to(device, non_blocking) for t in self.targets),
            self.image_ids,
        )

    def pin_memory(self) -> Batch:
        """Page-locked copy, for asynchronous transfer to a GPU."""
        return Batch(
            self.images.pin_memory(),
            self.valid_hw,
            self.original_hw,
            tuple(Target(t.boxes.pin_memory(), t.labels.pin_memory()) for t in self.targets),
            self.image_ids,
        )


# --------------------------------------------------------------------------- inside a detector


@dataclass(frozen=True)
class Priors:
    """Priors of a dense detector: anchors, or locations for anchor-free ones.

    Levels are ordered from fine to coarse; within a level the order is row, column, then anchor, so
    that a ``(B, H, W, A·K)`` convolution output reshapes to ``(B, H·W·A, K)``.

    Attributes:
        boxes: ``(A, 4)`` float32 xyxy pixels of the padded image.
        strides: ``(A,)`` float32, stride of each prior's level.
        level_sizes: number of priors per level; they sum to ``A``.
    """

    boxes: Tensor
    strides: Tensor
    level_sizes: tuple[int, ...]

    @property
    def centers(self) -> Tensor:
        """``(A, 2)`` xy pixels."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2


@dataclass(frozen=True)
class HeadOutput:
    """Raw outputs of a dense head, levels concatenated in the order of `Priors`.

    Attributes:
        cls: ``(B, A, K)`` classification logits.
        box: ``(B, A, 4)`` box regression, in the detector's box coding.
        quality: ``(B, A)`` centerness or IoU logits, or None.
    """

    cls: Tensor
    box: Tensor
    quality: Tensor | None = None


@dataclass(frozen=True)
class Assignment:
    """The ground truth that each prior of each image is assigned to.

    Attributes:
        labels: ``(B, A)`` int64: ``0..K-1`` category, ``K`` background, ``-1`` ignored.
        gt_index: ``(B, A)`` int64: row of the image's `Target`; meaningful where the label is a
            category, 0 elsewhere.
    """

    labels: Tensor
    gt_index: Tensor

    def positives(self, num_classes: int) -> Tensor:
        """``(B, A)`` bool, priors that are assigned to an object."""
        return (self.labels >= 0) & (self.labels < num_classes)


@dataclass(frozen=True)
class LossTerms:
    """The terms of one step's loss, each already normalised and weighted; they are summed.

    Attributes:
        classification: scalar.
        box: scalar.
        quality: scalar (centerness, IoU branch), or None if the detector has none.
        positives: scalar, number of positive priors in this process's batch (not part of the loss).
    """

    classification: Tensor
    box: Tensor
    positives: Tensor
    quality: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """The sum of the terms, to differentiate."""
        total = self.classification + self.box
        return total if self.quality is None else total + self.quality

    def named(self) -> dict[str, Tensor]:
        """The terms by name, detached, for logging."""
        terms = {"loss": self.total, "classification": self.classification, "box": self.box}
        if self.quality is not None:
            terms["quality"] = self.quality
        return {name: term.detach() for name, term in terms.items()}


@dataclass(frozen=True)
class Detections:
    """Detections in one image, best first.

    Attributes:
        boxes: ``(N, 4)`` float32 xyxy pixels of the original image.
        scores: ``(N,)`` float32 in [0, 1].
        labels: ``(N,)`` int64 in ``0..K-1``.
        xywh: ``(N, 4)`` float64 x, y, width, height in a results file, if `as_xywh` of ``boxes``
            differs in the last digits; else None.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    xywh: Tensor | None = None

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def to(self, device: torch.device | str) -> Detections:
        """All tensors on ``device``."""
        xywh = None if self.xywh is None else self.xywh.to(device)
        return Detections(
            self.boxes.to(device), self.scores.to(device), self.labels.to(device), xywh
        )


def category_index(categories: Sequence[Category]) -> dict[int, int]:
    """Map from category id to label ``0..K-1``."""
    return {category.id: label for label, category in enumerate(categories)}
