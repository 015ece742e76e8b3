"""Open Images Challenge 2019's files: boxes, image labels, classes, hierarchy and detections."""

from __future__ import annotations

import csv
import math
import operator
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperfocal.files import load_json, open_text, shown
from hyperfocal.types import (
    Category,
    DataError,
    HyperfocalWarning,
    OpenImagesBoxes,
    OpenImagesTruth,
)

CORNERS = ("XMin", "YMin", "XMax", "YMax")


def read_openimages(boxes: Path, labels: Path, classes: Path, hierarchy: Path) -> OpenImagesTruth:
    """Ground truth of a split; boxes are fractions of the image's width and height, as written.

    Boxes and labels of classes that aren't in ``classes``, such as the root of the hierarchy, are
    ignored.

    Args:
        boxes: CSV with ImageID, LabelName, XMin, XMax, YMin, YMax, IsGroupOf.
        labels: CSV with ImageID, LabelName, Confidence: 1 verified present, 0 verified absent.
        classes: CSV without header, LabelName and name.
        hierarchy: JSON, objects with LabelName and perhaps Subcategory, a list of such objects.

    Raises:
        DataError: a file is missing or has another format; the message names the file and the line.
    """
    names = read_classes(classes)
    label_of = {name: n for n, (name, _) in enumerate(names)}
    positive, negative = read_labels(labels, label_of)
    return OpenImagesTruth(
        source=boxes,
        categories=tuple(Category(n + 1, name) for n, (_, name) in enumerate(names)),
        boxes=read_boxes(boxes, label_of, "IsGroupOf"),
        positive=positive,
        negative=negative,
        ancestors=read_hierarchy(hierarchy, label_of),
    )


def read_classes(path: Path) -> list[tuple[str, str]]:
    """LabelName and name of each class, in the order of the file."""
    rows = [row for _, row in _lines(path)]
    for n, row in enumerate(rows):
        if len(row) != 2:
            raise DataError(f"{path}: line {n + 1} has {len(row)} columns, not LabelName and name")
    if not rows or len({row[0] for row in rows}) != len(rows):
        raise DataError(f"{path}: class descriptions must be there and differ in LabelName")
    return [(row[0], row[1]) for row in rows]


def read_labels(
    path: Path, label_of: Mapping[str, int]
) -> tuple[frozenset[tuple[str, int]], frozenset[tuple[str, int]]]:
    """Image ids and labels that were verified to be present, and those verified to be absent."""
    verified: tuple[set[tuple[str, int]], set[tuple[str, int]]] = (set(), set())
    columns = ("ImageID", "LabelName", "Confidence")
    for line, (image, name, confidence) in _rows(path, columns):
        label = label_of.get(name)
        if label is not None:
            absent = _number(confidence, "Confidence", path, line) <= 0
            verified[absent].add((image, label))
    return frozenset(verified[0]), frozenset(verified[1])


def read_hierarchy(path: Path, label_of: Mapping[str, int]) -> tuple[frozenset[int], ...]:
    """For each label, the labels of all its ancestors."""
    parents: dict[str, set[str]] = {}
    try:
        _walk(load_json(path), parents, path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except RecursionError:
        raise DataError(f"{path}: nested too deeply") from None
    return tuple(_above(name, parents, label_of, path) for name in label_of)


def read_boxes(path: Path, label_of: Mapping[str, int], value: str) -> OpenImagesBoxes:
    """Boxes of known classes with one more column: ``IsGroupOf`` or ``Score``.

    Detections may also have the challenge's submission format, ImageID (or ImageId) and
    PredictionString, which repeats LabelName Score XMin YMin XMax YMax.

    Raises:
        DataError: a column is missing or a value isn't a finite number.
    """
    names: dict[str, int] = {}
    image, labels, lines, numbers = array("q"), array("q"), array("q"), array("d")
    columns = (*CORNERS, value)
    rows, unknown = 0, list[str]()
    is_submission = value == "Score" and "PredictionString" in _header(path)
    for line, name, label, values in _submission(path) if is_submission else _boxes(path, columns):
        rows += 1
        known = label_of.get(label)
        if known is None:
            unknown.append(label)
            continue
        if not name:
            raise DataError(f"{path}: line {line}: no ImageID")
        image.append(names.setdefault(name, len(names)))
        labels.append(known)
        lines.append(line)
        try:
            numbers.extend(map(float, values))
        except ValueError:
            for key, text in zip(columns, values, strict=True):
                _number(text, key, path, line)
    if unknown and value == "Score":
        warnings.warn(
            f"{path}: {len(unknown)} of {rows} detections are of classes that the class "
            f"descriptions lack, such as {shown(unknown[0])}; they are left out",
            HyperfocalWarning,
            stacklevel=2,
        )
    table = np.array(numbers, np.float64).reshape(-1, 5)
    wrong = np.argwhere(~np.isfinite(table))
    if len(wrong):
        row, column = wrong[0].tolist()
        _number(str(table[row, column]), columns[column], path, lines[row])
    return OpenImagesBoxes(
        tuple(names),
        np.array(image, np.int64),
        np.array(labels, np.int64),
        table[:, :4],
        table[:, 4],
    )


Box = tuple[int, str, str, Sequence[str]]
"""Line, image, class, and the texts of `CORNERS` and one more."""


def _boxes(path: Path, columns: Sequence[str]) -> Iterator[Box]:
    for line, (image, label, *values) in _rows(path, ("ImageID", "LabelName", *columns)):
        yield line, image, label, values


def _submission(path: Path) -> Iterator[Box]:
    image_id = "ImageID" if "ImageID" in _header(path) else "ImageId"
    for line, (image, text) in _rows(path, (image_id, "PredictionString")):
        words = text.split()
        if len(words) % 6:
            raise DataError(
                f"{path}: line {line}: PredictionString has {len(words)} words, but each detection "
                "has six"
            )
        for n in range(0, len(words), 6):
            label, score, *corners = words[n : n + 6]
            yield line, image, label, (*corners, score)


def _above(
    name: str, parents: Mapping[str, set[str]], label_of: Mapping[str, int], path: Path
) -> frozenset[int]:
    seen: set[str] = set()
    todo = list(parents.get(name, ()))
    while todo:
        parent = todo.pop()
        if parent not in seen:
            seen.add(parent)
            todo += parents.get(parent, ())
    if name in seen:
        raise DataError(f"{path}: {name} is above itself")
    return frozenset(label_of[parent] for parent in seen if parent in label_of)


def _walk(node: Any, parents: dict[str, set[str]], path: Path) -> None:
    if not isinstance(node, dict) or not isinstance(node.get("LabelName"), str):
        raise DataError(f"{path}: every object of a hierarchy needs a LabelName")
    children = node.get("Subcategory", [])
    if not isinstance(children, list):
        raise DataError(f"{path}: Subcategory must be a list, found {shown(children)}")
    for child in children:
        _walk(child, parents, path)
        parents.setdefault(child["LabelName"], set()).add(node["LabelName"])


def _header(path: Path) -> list[str]:
    return next((header for _, header in _lines(path)), [])


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line number and the requested columns of each line, without loading the whole file."""
    lines = _lines(path)
    _, header = next(lines, (1, []))
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}")
    pick = operator.itemgetter(*map(header.index, columns))
    for line, row in lines:
        try:
            yield line, pick(row)
        except IndexError:
            raise DataError(f"{path}: line {line} is too short") from None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with open_text(path) as file:
            reader = csv.reader(file)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: not readable ({error})") from None


def _number(text: str, key: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}: line {line}: {key} must be a finite number, found {shown(text)}")
    return value
