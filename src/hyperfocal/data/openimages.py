"""Open Images Challenge 2019's files: boxes, image labels, classes, hierarchy and detections."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperfocal.types import Category, DataError, OpenImagesBoxes, OpenImagesTruth

CORNERS = ("XMin", "YMin", "XMax", "YMax")


def read_openimages(boxes: Path, labels: Path, classes: Path, hierarchy: Path) -> OpenImagesTruth:
    """Ground truth of a split; boxes are fractions of the image's width and height, as written.

    Boxes and labels of classes that ``classes`` lacks are left out, after nothing was derived from
    them: the hierarchy's root is such a class.

    Args:
        boxes: CSV with ImageID, LabelName, XMin, XMax, YMin, YMax, IsGroupOf.
        labels: CSV with ImageID, LabelName, Confidence: 1 verified present, 0 verified absent.
        classes: CSV without header, LabelName and name.
        hierarchy: JSON, objects with LabelName and perhaps Subcategory, a list of such objects.

    Raises:
        DataError: a file is missing or isn't such a file; names the file and the line.
    """
    names = read_classes(classes)
    label_of = {name: n for n, (name, _) in enumerate(names)}
    parents: dict[str, set[str]] = {}
    _walk(_json(hierarchy), parents, hierarchy)
    verified: dict[bool, set[tuple[str, int]]] = {True: set(), False: set()}
    for where, row in _rows(labels, ("ImageID", "LabelName", "Confidence")):
        label = label_of.get(row["LabelName"])
        if label is not None:
            verified[_number(row, "Confidence", where) > 0].add((row["ImageID"], label))
    return OpenImagesTruth(
        source=boxes,
        categories=tuple(Category(n + 1, name) for n, (_, name) in enumerate(names)),
        boxes=read_boxes(boxes, label_of, "IsGroupOf"),
        positive=frozenset(verified[True]),
        negative=frozenset(verified[False]),
        ancestors=tuple(_above(name, parents, label_of, hierarchy) for name, _ in names),
    )


def read_classes(path: Path) -> list[tuple[str, str]]:
    """LabelName and name of each class, in the order of the file."""
    rows = [row for row in csv.reader(_lines(path)) if row]
    for n, row in enumerate(rows):
        if len(row) != 2:
            raise DataError(f"{path}: line {n + 1} has {len(row)} columns, not LabelName and name")
    if not rows or len({row[0] for row in rows}) != len(rows):
        raise DataError(f"{path}: class descriptions must be there and differ in LabelName")
    return [(row[0], row[1]) for row in rows]


def read_boxes(path: Path, label_of: Mapping[str, int], value: str) -> OpenImagesBoxes:
    """Boxes of known classes with one more column: ``IsGroupOf`` or ``Score``.

    Detections may also have the challenge's submission format, ImageID (or ImageId) and
    PredictionString, which repeats LabelName Score XMin YMin XMax YMax.

    Raises:
        DataError: a column is missing or a value isn't a finite number.
    """
    images: list[str] = []
    table: list[tuple[float, ...]] = []
    columns: tuple[str, ...] = ("LabelName", *CORNERS, value)
    header = next(iter(csv.reader(_lines(path)[:1])), [])
    is_submission = value == "Score" and "PredictionString" in header
    for where, row in _rows(path, ("PredictionString",) if is_submission else columns):
        image = row.get("ImageID") or row.get("ImageId")
        if not image:
            raise DataError(f"{where}: no ImageID")
        for entry in _predictions(row["PredictionString"], where) if is_submission else [row]:
            if entry["LabelName"] in label_of:
                images.append(image)
                numbers = [_number(entry, key, where) for key in columns[1:]]
                table.append((*numbers, label_of[entry["LabelName"]]))
    rows = np.array(table, np.float64).reshape(-1, 6)
    return OpenImagesBoxes(tuple(images), rows[:, 5].astype(np.int64), rows[:, :4], rows[:, 4])


def _predictions(text: str, where: str) -> Iterator[dict[str, str]]:
    words = text.split()
    if len(words) % 6:
        raise DataError(f"{where}: PredictionString has {len(words)} words, not six a detection")
    for n in range(0, len(words), 6):
        yield dict(zip(("LabelName", "Score", *CORNERS), words[n : n + 6], strict=True))


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
    for child in node.get("Subcategory", []):
        _walk(child, parents, path)
        parents.setdefault(child["LabelName"], set()).add(node["LabelName"])


def _json(path: Path) -> Any:
    try:
        return json.loads("\n".join(_lines(path)))
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error})") from None


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(_lines(path))
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}")
    for n, row in enumerate(reader):
        if any(row[name] is None for name in columns):
            raise DataError(f"{path}: line {n + 2} is too short")
        yield f"{path}: line {n + 2}", row


def _number(row: Mapping[str, str], key: str, where: str) -> float:
    try:
        value = float(row[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {key} must be a finite number, found {row[key]!r}")
    return value
