"""Annotations from Python objects: torch Datasets, supervision's and torchvision's datasets.

A dataset that exists only in Python becomes an `AnnotationSet` like one that was read from files,
so losses, samplers, metrics, checks and resuming work in the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperfocal.data.checks import check_annotations
from hyperfocal.data.file_names import with_files
from hyperfocal.data.formats.coco import read_coco
from hyperfocal.data.formats.raw import Problems, RawAnnotations, RawImage, SplitName
from hyperfocal.data.torch_dataset import BACKGROUND_NAMES, Advance, DatasetImages, read_targets
from hyperfocal.types import AnnotationSet, Category, DataError


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

    Examples:
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
    return read_targets(
        DatasetImages(data, label_of, f"{split} {_name(data)}"), own, known, advance
    )


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


def _name(data: object) -> str:
    return type(data).__name__


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
