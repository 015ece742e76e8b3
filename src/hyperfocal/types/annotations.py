"""Annotations of a split: images, boxes and categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # only for annotations: the losses don't need NumPy
    import numpy as np
    from numpy.typing import NDArray

    from hyperfocal.types.batch import Sample


@dataclass(frozen=True)
class Category:
    """One category: its name and its id in the annotation file.

    Examples:
        >>> import hyperfocal
        >>> hyperfocal.Category(id=7, name="ant").name
        'ant'
    """

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

    Examples:
        >>> import hyperfocal
        >>> split = hyperfocal.read_annotations("train.json", "train")
        >>> len(split.images), split.images[0].boxes.shape[1]
        (24, 4)
        >>> len(split.counts().instances) == len(split.categories)
        True
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


def category_index(categories: Sequence[Category]) -> dict[int, int]:
    """Map from category id to label ``0..K-1``."""
    return {category.id: label for label, category in enumerate(categories)}
