"""CSV files with boxes in pixels, in the formats of keras-retinanet and TensorFlow's object
detection."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from hyperfocal.data.formats.raw import MAX_SIDE, Problems, RawAnnotations, RawImage, inside
from hyperfocal.files import open_text, shown
from hyperfocal.types import Category, DataError

CsvFormat = Literal["keras", "tensorflow"]

TENSORFLOW = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")
OPEN_IMAGES = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")

MAX_FIELD = 1 << 16
"""Characters of a row that are looked at."""


def csv_format(path: Path) -> CsvFormat | None:
    """The format of a CSV file by its columns; None: Open Images.

    Raises:
        DataError: the columns are of no known format; the message lists the known ones.
    """
    try:
        _, row = next(_rows(path))
    except StopIteration:
        raise DataError(f"{path}: an empty file") from None
    names = [word.strip() for word in row]
    if set(TENSORFLOW) - {"width", "height"} <= set(names):
        return "tensorflow"
    if set(OPEN_IMAGES) <= set(names):
        return None
    if len(row) == 6 and _is_keras(row):
        return "keras"
    lower = {name.lower() for name in names}
    if {"imageid", "labelname"} & lower:
        return None  # Open Images' reader names the column that is missing
    raise DataError(
        f"{path}: its columns ({', '.join(map(shown, names[:10]))}) match no known format. "
        f"Open Images' boxes have {', '.join(OPEN_IMAGES)}; TensorFlow's have "
        f"{', '.join(TENSORFLOW)}; keras-retinanet's rows, without a header, are "
        "path,x1,y1,x2,y2,class"
    )


def _is_keras(row: Sequence[str]) -> bool:
    return all(_number(word) is not None for word in row[1:5]) or not any(row[1:])


def read_csv(
    path: Path,
    images: Path | None,
    columns: CsvFormat,
    classes: Path | None = None,
    split: str = "train",
    problems: Problems | None = None,
) -> RawAnnotations:
    """Parse a CSV of boxes in pixels.

    * ``keras``: rows ``path,x1,y1,x2,y2,class`` without a header; ``path,,,,,`` is an image without
      boxes. ``classes`` may name a CSV ``class,id``, which orders the categories.
    * ``tensorflow``: columns `TENSORFLOW` in any order, with a header; ``width`` and ``height`` may
      be missing.

    Categories are the names found, in alphabetical order unless ``classes`` orders them. Images are
    numbered from 1 in the order of the file.

    Args:
        path: the CSV.
        images: folder that paths are relative to; None: the folder of the CSV.
        columns: from `csv_format`.
        classes: keras-retinanet's class mapping.
        split: names the option in errors.
        problems: collects errors and warnings; None raises and warns.

    Raises:
        DataError: rows that can't be read; the message names their lines.
    """
    problems = problems or Problems(path)
    folder = path.parent if images is None else images
    numbers: dict[str, int] = {}
    found: list[RawImage] = []
    boxes: list[tuple[float, ...]] = []
    names: list[str] = []
    owners: list[int] = []
    lines: list[int] = []
    for line, file, box, name, hw in _boxes(path, columns, problems):
        if file not in numbers:
            place = inside(folder, file)
            if place is None:
                problems.errors.append(
                    f"line {line}: {shown(file)} leads out of the image folder {folder}; make it "
                    f"relative to that folder (--data.{split}.images)"
                )
                continue
            numbers[file] = len(numbers) + 1
            found.append(RawImage(numbers[file], file, place, hw, folder))
        if box is not None:
            boxes.append(box)
            names.append(name)
            owners.append(numbers[file])
            lines.append(line)
    order = _class_order(classes) if classes is not None else sorted(set(names))
    unknown = sorted(set(names) - set(order))
    if unknown:
        problems.errors.append(f"class {shown(unknown[0])} is not in {classes}; add it there")
    problems.report()
    ids = {name: n for n, name in enumerate(order, start=1)}
    return RawAnnotations(
        source=path,
        categories=tuple(Category(n, name) for name, n in ids.items()),
        images=found,
        image_ids=np.array(owners, np.int64),
        category_ids=np.array([ids[name] for name in names], np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        crowd=np.zeros(len(boxes), np.bool_),
        area=np.full(len(boxes), np.nan),
        describe=lambda n: f"line {lines[n]}",
        made_up_ids=True,
        order="xyxy",
    )


def _boxes(
    path: Path, columns: CsvFormat, problems: Problems
) -> Iterator[tuple[int, str, tuple[float, ...] | None, str, tuple[int, int] | None]]:
    """Line number, file name, box or None, class and annotated size of each row."""
    rows = _rows(path)
    place: dict[str, int] = {}
    if columns == "tensorflow":
        place = {name.strip(): n for n, name in enumerate(next(rows)[1])}
    for line, row in rows:
        if columns == "keras":
            words = [*row[:6], *[""] * (6 - len(row))]
            file, corners, name, hw = words[0], words[1:5], words[5], None
        elif len(row) < len(place):
            problems.errors.append(f"line {line}: {len(row)} columns, but there are {len(place)}")
            continue
        else:
            file, name = row[place["filename"]], row[place["class"]]
            corners = [row[place[key]] for key in ("xmin", "ymin", "xmax", "ymax")]
            hw = _size(row, place)
        file, name = file.strip(), name.strip()
        if not file:
            problems.errors.append(f"line {line}: no file name")
        elif not any(word.strip() for word in corners) and not name:
            yield line, file, None, "", hw
        elif not name:
            problems.errors.append(f"line {line}: a box without a class")
        else:
            values = [_number(word) for word in corners]
            box = tuple(float("nan") if value is None else value for value in values)
            yield line, file, box, name, hw


def _size(row: Sequence[str], place: dict[str, int]) -> tuple[int, int] | None:
    if not {"width", "height"} <= place.keys():
        return None
    sides = [_number(row[place[key]]) for key in ("height", "width")]
    height, width = (int(s) if s is not None and 0 < s <= MAX_SIDE else 0 for s in sides)
    return (height, width) if height and width else None


def _class_order(path: Path) -> list[str]:
    """Names from keras-retinanet's class mapping, ordered by id."""
    by_id: dict[int, str] = {}
    for line, row in _rows(path):
        number = _number(row[1]) if len(row) == 2 else None
        if number is None or not number.is_integer():
            raise DataError(f"{path}: line {line}: expected class,id, found {shown(','.join(row))}")
        by_id[int(number)] = row[0].strip()
    return [by_id[n] for n in sorted(by_id)]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of every row that isn't empty."""
    try:
        with open_text(path) as file:
            reader = csv.reader(file)
            for row in reader:
                if any(word.strip() for word in row):
                    yield reader.line_num, [word[:MAX_FIELD] for word in row]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path}: not readable as CSV ({error})") from None
