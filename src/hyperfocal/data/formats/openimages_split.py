"""Splits of Open Images: boxes with their images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from hyperfocal.config import Config
from hyperfocal.data.formats.openimages import read_boxes, read_classes, read_hierarchy, read_labels
from hyperfocal.data.formats.raw import RawAnnotations, RawImage, inside
from hyperfocal.files import shown
from hyperfocal.types import Category, DataError, OpenImagesLists


@dataclass(frozen=True)
class OpenImagesFiles(Config):
    """Further files of a split, besides the CSV of boxes.

    Attributes:
        classes: class descriptions, CSV without header: LabelName and name.
        image_labels: CSV with ImageID, LabelName, Confidence.
        hierarchy: JSON.
    """

    classes: Path | None = None
    image_labels: Path | None = None
    hierarchy: Path | None = None

    def options(self, split: str) -> list[str]:
        """The options, such as ``--data.val.classes``, of the files that are given."""
        return [
            f"--data.{split}.{field.name.replace('_', '-')}"
            for field in fields(self)
            if getattr(self, field.name) is not None
        ]


def read_openimages_split(
    boxes: Path, images: Path | None, files: OpenImagesFiles, split: str
) -> RawAnnotations:
    """Read a split for training or evaluation.

    The images are those with boxes and those in ``files.image_labels``, numbered from 1 in the
    order of their ids; the file of an image is ``ID.jpg``. Group-of boxes get the crowd flag: they
    are not used for training. Verified labels are stored if both labels and hierarchy are given.

    Raises:
        DataError: no class descriptions; labels without a hierarchy or the other way round; and
            errors of `read_openimages`.
    """
    if files.classes is None:
        raise DataError(
            f"{boxes}: Open Images' boxes need the class descriptions (LabelName,name): give "
            f"--data.{split}.classes (of hyperfocal evaluate: --data.classes)"
        )
    if (files.image_labels is None) != (files.hierarchy is None):
        raise DataError(
            f"{boxes}: image labels and hierarchy go together: give both "
            f"--data.{split}.image-labels and --data.{split}.hierarchy, or neither"
        )
    classes = read_classes(files.classes)
    label_of = {name: n for n, (name, _) in enumerate(classes)}
    table = read_boxes(boxes, label_of, "IsGroupOf")
    positive, negative = frozenset[tuple[str, int]](), frozenset[tuple[str, int]]()
    if files.image_labels is not None:
        positive, negative = read_labels(files.image_labels, label_of)
    names = sorted({*table.names, *(image for image, _ in positive | negative)})
    number = {name: n for n, name in enumerate(names, start=1)}
    lists = None
    if files.hierarchy is not None:
        ancestors = read_hierarchy(files.hierarchy, label_of)
        lists = OpenImagesLists(_by_image(positive, number), _by_image(negative, number), ancestors)
    folder = boxes.parent if images is None else images
    wrong = [name for name in names if inside(folder, f"{name}.jpg") is None]
    if wrong:
        raise DataError(
            f"{boxes}: ImageID {shown(wrong[0])} leads out of the image folder {folder}"
        )
    owner = np.array([number[name] for name in table.names], np.int64)[table.image]
    return RawAnnotations(
        source=boxes,
        categories=tuple(Category(n + 1, name) for n, (_, name) in enumerate(classes)),
        images=[
            RawImage(n, f"{name}.jpg", folder / f"{name}.jpg", None, folder)
            for name, n in number.items()
        ],
        image_ids=owner,
        category_ids=table.labels + 1,
        boxes=table.xyxy.copy(),
        crowd=table.value > 0,
        area=np.full(len(owner), np.nan),
        describe=lambda n: f"box of image {table.names[table.image[n]]}",
        normalized=True,
        made_up_ids=True,
        openimages=lists,
    )


def _by_image(
    verified: Iterable[tuple[str, int]], number: Mapping[str, int]
) -> dict[int, frozenset[int]]:
    labels: dict[int, set[int]] = {}
    for image, label in verified:
        labels.setdefault(number[image], set()).add(label)
    return {image: frozenset(some) for image, some in labels.items()}


def relabelled(lists: OpenImagesLists, new: Sequence[int | None], k: int) -> OpenImagesLists:
    """The same lists for K other labels.

    Args:
        lists: lists with the old labels.
        new: the new label of each old one; None: it is dropped.
        k: number of new labels.
    """

    def renamed(labels: Iterable[int]) -> frozenset[int]:
        return frozenset(n for label in labels if (n := new[label]) is not None)

    ancestors = [frozenset[int]()] * k
    for old, label in enumerate(new):
        if label is not None:
            ancestors[label] = renamed(lists.ancestors[old])
    return OpenImagesLists(
        {image: renamed(labels) for image, labels in lists.positive.items()},
        {image: renamed(labels) for image, labels in lists.negative.items()},
        tuple(ancestors),
    )
