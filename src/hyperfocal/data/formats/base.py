"""Base class of user-defined dataset formats, and annotations from rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperfocal.config import Config
from hyperfocal.data.formats.raw import Problems, RawAnnotations, RawImage, SplitName, inside
from hyperfocal.files import shown
from hyperfocal.types import Category


@dataclass(frozen=True)
class AnnotationFormat(Config, role=True):
    """Reader of a dataset format; the config is the reader.

    Its result is checked like that of every other format: see `hyperfocal.data.read_annotations`.
    """

    @abstractmethod
    def read(self, annotations: Path, images: Path | None, split: SplitName) -> RawAnnotations:
        """The annotations as written, such as `raw_from_rows` makes; they are checked afterwards.

        Args:
            annotations: file or folder, which exists.
            images: image folder, which exists, or None: where the format keeps it.
            split: which part to read, if the format keeps both in one place.

        Raises:
            DataError: the file can't be read; the message names the file, the line and the fix.
        """


class Row(NamedTuple):
    """A box, or an image without boxes.

    Attributes:
        file: name of the image file, relative to the image folder.
        category: name of the category; "" without a box.
        box: x1, y1, x2, y2 in pixels; None: an image without boxes.
        place: location in the file, such as ``line 7``, for messages.
    """

    file: str
    category: str
    box: tuple[float, float, float, float] | None
    place: str


def raw_from_rows(source: Path, folder: Path, rows: Iterable[Row]) -> RawAnnotations:
    """Annotations of a format that is a list of boxes.

    Images are numbered in the order of the rows, categories by their names in alphabetical order.

    Args:
        source: the file or folder that messages name.
        folder: the image folder.
        rows: in any order.

    Raises:
        DataError: file names outside the folder.
    """
    problems = Problems(source)
    images: dict[str, RawImage] = {}
    boxes: list[tuple[RawImage, Row]] = []
    for row in rows:
        place = inside(folder, row.file)
        if place is None:
            problems.errors.append(
                f"{row.place}: {shown(row.file)} leads out of the image folder {folder}"
            )
            continue
        image = images.setdefault(
            row.file, RawImage(len(images) + 1, row.file, place, None, folder)
        )
        if row.box is not None:
            boxes.append((image, row))
    problems.report()
    names = sorted({row.category for _, row in boxes})
    ids = {name: number for number, name in enumerate(names, start=1)}
    return RawAnnotations(
        source=source,
        categories=tuple(Category(number, name) for name, number in ids.items()),
        images=list(images.values()),
        image_ids=np.array([image.id for image, _ in boxes], np.int64),
        category_ids=np.array([ids[row.category] for _, row in boxes], np.int64),
        boxes=np.array([row.box for _, row in boxes], np.float64).reshape(-1, 4),
        crowd=np.zeros(len(boxes), np.bool_),
        area=np.full(len(boxes), np.nan),
        describe=lambda n: boxes[n][1].place,
        made_up_ids=True,
        order="xyxy",
    )
