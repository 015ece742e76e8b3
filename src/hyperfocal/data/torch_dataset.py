"""A torch Dataset as annotations and images.

Its targets are read once at the start; its images are read by index for each batch.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from hyperfocal.data.checks import check_annotations
from hyperfocal.data.formats.raw import RawAnnotations, RawImage
from hyperfocal.data.images import Header, to_image
from hyperfocal.types import AnnotationSet, Category, DataError, ImageRecord, Sample, Target

BACKGROUND_NAMES = ("__background__", "background")
"""First of ``categories`` where labels follow torchvision's convention: 0 is background."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Item:
    """One item of a torch Dataset, checked.

    Attributes:
        image: ``(3, H, W)`` uint8 RGB.
        boxes: ``(N, 4)`` float64 xyxy pixels.
        labels: ``(N,)`` int64 in ``0..K-1``.
        crowd: ``(N,)`` bool, from the target's ``iscrowd``; all False without it.
    """

    image: Tensor
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


class DatasetImages:
    """Images and targets of a map-style torch Dataset, by index.

    Args:
        dataset: ``dataset[i]`` is ``(image, target)``; see `annotations_of`.
        label_of: map from the dataset's labels to ``0..K-1``; -1 for background.
        name: name of the dataset in messages.
    """

    def __init__(self, dataset: Any, label_of: Mapping[int, int], name: str) -> None:
        self.dataset, self.label_of, self.name = dataset, dict(label_of), name

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, seed: int | None = None) -> Item:
        """Item ``index``.

        Args:
            index: into the dataset.
            seed: seed for Python's, NumPy's and torch's global generators during the call, which
                makes the dataset's random transforms reproducible; their state is restored
                afterwards. None: they aren't seeded.

        Raises:
            DataError: the dataset raised an exception, or the item isn't as `annotations_of`
                describes; the message names the index.
        """
        where = f"{self.name}[{index}]"
        try:
            with _seeded(seed):
                item = self.dataset[index]
        except Exception as error:
            raise DataError(f"{where}: {type(error).__name__}: {error}") from error
        return self._checked(item, where)

    def _checked(self, item: object, where: str) -> Item:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"{where}: expected a pair (image, target), found {type(item).__name__}"
            )
        pixels, target = item
        try:
            image = to_image(pixels)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if target is None:
            target = {}
        if not isinstance(target, Mapping):
            raise DataError(
                f"{where}: expected a target like {{'boxes': ..., 'labels': ...}}, found "
                f"{type(target).__name__}; a torchvision dataset becomes one with "
                "torchvision.datasets.wrap_dataset_for_transforms_v2"
            )
        if ("boxes" in target) != ("labels" in target):
            raise DataError(f"{where}: the target needs both 'boxes' and 'labels'")
        boxes = _column(target.get("boxes", ()), where, "boxes", np.float64).reshape(-1, 4)
        given = target.get("boxes")
        if isinstance(given, BoundingBoxes) and given.format != BoundingBoxFormat.XYXY:
            raise DataError(f"{where}: boxes are {given.format.value}; convert them to XYXY")
        labels = _column(target.get("labels", ()), where, "labels", np.int64).reshape(-1)
        crowd = _column(target.get("iscrowd", np.zeros(len(labels))), where, "iscrowd", np.int64)
        if not len(boxes) == len(labels) == len(crowd):
            raise DataError(f"{where}: {len(boxes)} boxes, but {len(labels)} labels")
        own = [self._label(label, where) for label in labels.tolist()]
        return Item(image, boxes, np.array(own, np.int64), crowd.reshape(-1).astype(np.bool_))

    def _label(self, label: int, where: str) -> int:
        found = self.label_of.get(label)
        if found is not None and found >= 0:
            return found
        if found is not None:
            raise DataError(f"{where}: a box has label {label}, which is the background")
        known = sorted(self.label_of)
        hint = ""
        if label == len(known) == known[-1] + 1:
            hint = (
                "; if labels count from 1, as in torchvision's examples, begin categories with "
                f"{BACKGROUND_NAMES[0]!r}"
            )
        raise DataError(
            f"{where}: label {label}, but the categories have labels {known[0]} to {known[-1]}"
            f"{hint}"
        )


def read_targets(
    images: DatasetImages,
    own: tuple[Category, ...],
    known: Sequence[Category] | None,
    advance: Advance,
) -> AnnotationSet:
    """One pass over the dataset for sizes and targets, checked like every format."""
    raws, headers = [], []
    boxes, labels, crowd = [np.zeros((0, 4))], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    for index in range(len(images)):
        item = images.read(index, seed=index)
        hw = int(item.image.shape[1]), int(item.image.shape[2])
        name = f"{images.name}[{index}]"
        raws.append(RawImage(index, name, Path(name), hw))
        headers.append(Header(hw, hw))
        boxes.append(item.boxes)
        labels.append(item.labels)
        crowd.append(item.crowd)
        advance(1)
    counts = [len(column) for column in labels[1:]]
    ids = np.array([category.id for category in own], np.int64)
    raw = RawAnnotations(
        source=Path(images.name),
        categories=own,
        images=raws,
        image_ids=np.repeat(np.arange(len(raws)), counts).astype(np.int64),
        category_ids=ids[np.concatenate(labels)],
        boxes=np.concatenate(boxes),
        crowd=np.concatenate(crowd),
        area=np.full(sum(counts), np.nan),
        describe=lambda n: f"box {n}",
        made_up_ids=True,
    )
    checked = check_annotations(raw, known, "headers", "error", headers=headers, follow_links=True)
    by_name = {category.name: n for n, category in enumerate(checked.categories)}
    source = DatasetSource(images, tuple(by_name.get(category.name, -1) for category in own))
    return dataclasses.replace(
        checked,
        images=tuple(dataclasses.replace(record, source=source) for record in checked.images),
    )


@dataclass(frozen=True)
class DatasetSource:
    """`ImageSource` for the images of a torch Dataset; the id of an image is its index.

    Attributes:
        images: of the dataset.
        labels: map from the dataset's labels to those of the `AnnotationSet`; -1 for background.
    """

    images: DatasetImages
    labels: tuple[int, ...]

    def sample(self, record: ImageRecord, seed: int | None = None) -> Sample:
        """The image with the boxes that the dataset returns for it in this call, without crowd
        boxes.

        Raises:
            DataError: it can't be read, or its size has changed since the targets were read.
        """
        item = self.images.read(record.id, seed)
        height, width = (int(side) for side in item.image.shape[1:])
        if (height, width) != (record.height, record.width):
            raise DataError(
                f"{record.path}: {width}x{height} pixels, but {record.width}x{record.height} when "
                "the targets were read; leave resizing and cropping to --data.train-transform"
            )
        x1, y1, x2, y2 = item.boxes.T
        labels = np.array(self.labels, np.int64)[item.labels]
        keep = ~item.crowd & (labels >= 0) & (x2 > x1) & (y2 > y1)
        keep &= np.isfinite(item.boxes).all(axis=1)
        limit = np.array([width, height, width, height], np.float64)
        boxes = np.clip(item.boxes[keep], 0, limit).astype(np.float32)
        target = Target(torch.from_numpy(boxes), torch.from_numpy(labels[keep]))
        return Sample(item.image, target, record.id, (height, width))


def _column(value: Any, where: str, name: str, dtype: type) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        column = np.asarray(value)
        if dtype is np.int64 and column.size and not np.equal(np.mod(column, 1), 0).all():
            raise ValueError("not whole numbers")
        column = column.astype(dtype)
        if name == "boxes":
            column.reshape(-1, 4)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {name} can't be used ({error})") from None
    return column


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Context that seeds Python's, NumPy's and torch's global generators, and restores them."""
    if seed is None:
        yield
        return
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002, what datasets use
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % (1 << 32))  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(legacy)  # noqa: NPY002
