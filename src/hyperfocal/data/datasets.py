"""Annotations from Python objects: torch Datasets, supervision's and torchvision's datasets.

A dataset that exists only in Python becomes an `AnnotationSet` like one that was read from files,
so losses, samplers, metrics, checks and resuming work in the same way. Its targets are read once at
the start; its images are read by index for each batch.
"""

from __future__ import annotations

import dataclasses
import random
import sys
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
from hyperfocal.data.coco import read_coco
from hyperfocal.data.file_names import with_files
from hyperfocal.data.images import Header, to_image
from hyperfocal.data.raw import Problems, RawAnnotations, RawImage, SplitName
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


def annotations_of(
    data: Any,
    categories: Sequence[str] | Sequence[Category] | None = None,
    *,
    split: SplitName = "train",
    known: Sequence[Category] | None = None,
    advance: Advance = lambda images: None,
) -> AnnotationSet:
    """An `AnnotationSet` from an object in memory.

    Args:
        data: one of

            * an `AnnotationSet`, returned with ``known``'s labels checked;
            * a `supervision.DetectionDataset`: its image files, boxes and classes;
            * a `torchvision.datasets.CocoDetection`, as it is or wrapped by
              ``wrap_dataset_for_transforms_v2``; categories are those of its file. If it has
              transforms, it must be wrapped;
            * any map-style torch Dataset whose items are ``(image, target)``: a PIL image, array
              ``(H, W, 3)`` or tensor ``(3, H, W)`` (uint8, or float in [0, 1], not normalised), and
              ``{"boxes": (N, 4) xyxy pixels, "labels": (N,)}``, with ``"iscrowd"`` if there are
              crowd boxes. An item may have no boxes. The dataset's transforms may be random for
              training, but must not change the size of an image.
        categories: names in label order; needed for a torch Dataset. If the first is
            ``"__background__"``, labels count from 1.
        split: name of the split in messages.
        known: categories of the training split, so that a validation split gets the same labels
            (matched by name).
        advance: called with the number of images whose targets were read, for a progress bar.

    Raises:
        DataError: an object of another kind, or an item that can't be used.

    Example:
        >>> import numpy as np
        >>> from hyperfocal import annotations_of
        >>> data = [(np.zeros((32, 32, 3), np.uint8), {"boxes": [[4, 4, 20, 20]], "labels": [0]})]
        >>> found = annotations_of(data, ["disc"])
        >>> found.images[0].boxes.tolist(), found.categories[0].name
        ([[4.0, 4.0, 20.0, 20.0]], 'disc')
    """
    if isinstance(data, AnnotationSet):
        if known is not None and [c.name for c in known] != [c.name for c in data.categories]:
            raise DataError(
                f"{data.source}: its categories differ from the training split's; read it with "
                "read_annotations(..., categories=train.categories)"
            )
        return data
    if _is_supervision(data):
        return _from_supervision(data, known, split)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(
            f"{split} data: expected a pair (annotations, images), an AnnotationSet, a "
            f"supervision.DetectionDataset or a map-style torch Dataset, found "
            f"{type(data).__name__}"
        )
    if _is_coco_detection(data) and data.transforms is None:
        source = Path(f"CocoDetection of {data.root}")
        raw = read_coco(source, Path(data.root), content=data.coco.dataset)
        problems = Problems(raw.source)
        raw = with_files(raw, problems)
        return check_annotations(raw, known, "headers", "error", problems, follow_links=True)
    own, label_of = _label_space(data, categories, split)
    return _scan(DatasetImages(data, label_of, f"{split} {_name(data)}"), own, known, advance)


def _name(data: object) -> str:
    return type(data).__name__


def _label_space(
    data: Any, categories: Sequence[str] | Sequence[Category] | None, split: str
) -> tuple[tuple[Category, ...], dict[int, int]]:
    """Categories in label order, and the map from the dataset's labels to theirs."""
    if _is_coco_detection(data):
        listed = [
            Category(int(c["id"]), str(c["name"]))
            for c in data.coco.loadCats(data.coco.getCatIds())
        ]
        return tuple(listed), {category.id: n for n, category in enumerate(listed)}
    if not categories:
        raise DataError(
            f"{split} data {_name(data)}: give categories=[names in label order], as a Dataset "
            "has none"
        )
    names = [c.name if isinstance(c, Category) else str(c) for c in categories]
    shift = int(names[0] in BACKGROUND_NAMES)
    names = names[shift:]
    if len(set(names)) < len(names):
        raise DataError(f"categories: a name is used twice in {names}")
    if not names:
        raise DataError("categories: only the background; name at least one category")
    label_of = {n + shift: n for n in range(len(names))} | ({0: -1} if shift else {})
    return tuple(Category(n + shift, name) for n, name in enumerate(names)), label_of


def _scan(
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


# --------------------------------------------------------------------------- supervision


def _is_supervision(data: object) -> bool:
    supervision = sys.modules.get("supervision")  # whoever has such a dataset has imported it
    return supervision is not None and isinstance(data, supervision.DetectionDataset)


def _is_coco_detection(data: object) -> bool:
    from torchvision.datasets import CocoDetection

    return isinstance(data, CocoDetection)


def _from_supervision(
    data: Any, known: Sequence[Category] | None, split: SplitName
) -> AnnotationSet:
    """Annotations from supervision's boxes by image path; images are read from their files."""
    own = tuple(Category(n, str(name)) for n, name in enumerate(data.classes))
    paths = [Path(path) for path in data.image_paths]
    found = [data.annotations.get(str(path)) for path in data.image_paths]
    columns = [
        (np.zeros((0, 4)), np.zeros(0, np.int64))
        if item is None or len(item) == 0
        else (np.asarray(item.xyxy, np.float64), np.asarray(item.class_id, np.int64))
        for item in found
    ]
    counts = [len(labels) for _, labels in columns]
    raw = RawAnnotations(
        source=Path(f"supervision.DetectionDataset ({split})"),
        categories=own,
        images=[RawImage(n, path.name, path, None) for n, path in enumerate(paths)],
        image_ids=np.repeat(np.arange(len(paths)), counts).astype(np.int64),
        category_ids=np.concatenate([np.zeros(0, np.int64), *(labels for _, labels in columns)]),
        boxes=np.concatenate([np.zeros((0, 4)), *(boxes for boxes, _ in columns)]),
        crowd=np.zeros(sum(counts), np.bool_),
        area=np.full(sum(counts), np.nan),
        describe=lambda n: f"box {n}",
        made_up_ids=True,
    )
    return check_annotations(raw, known, "headers", "error", follow_links=True)


# --------------------------------------------------------------------------- helpers


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
