"""COCO results files: ``[{"image_id", "category_id", "bbox", "score"}, ...]``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperfocal.evaluation.result_checks import ResultRows, check_results, warn
from hyperfocal.evaluation.result_images import match_file_names
from hyperfocal.files import load_json, shown, whole_number
from hyperfocal.types import (
    AnnotationSet,
    DataError,
    Detections,
    category_index,
)
from hyperfocal.xywh import written_xywh

DIGITS = 8
"""Significant digits of boxes in the file."""


def read_results(path: str | Path, annotations: AnnotationSet) -> dict[int, Detections]:
    """Read COCO results; ``bbox`` is x, y, width, height in original pixels.

    An entry names its image by ``image_id``, or by ``file_name`` as written by ``hyperfocal
    predict`` (or by a string as ``image_id``, the file name or stem); see `match_file_names`. It
    names its category by ``category_id``, or by a ``category`` name, which takes precedence.
    Entries with file or category names that aren't in the annotations are skipped with a warning.

    The detections are then checked against the annotations; likely mistakes (boxes in another
    format or scale, shifted ids, images without results) are reported by a `HyperfocalWarning` with
    the likely cause.

    Args:
        path: JSON file, a list of objects with at least image, category, ``bbox`` and ``score``.
        annotations: the evaluated split.

    Returns:
        Detections by image id, in the order of the file (which breaks ties of score). Boxes and
        scores are float64, as precise as in the file. Images without results are absent.

    Raises:
        DataError: not a results file, or entries with an unknown image or category or an invalid
            box or score; the message names the file and the first such entry, counted from 0.
    """
    path = Path(path)
    entries = _read_list(path)
    rows = _Reader(path, annotations).read(entries)
    check_results(rows, annotations, path)
    found = {}
    order = np.argsort(rows.image, kind="stable")
    ends = np.searchsorted(rows.image[order], np.arange(len(annotations.images) + 1))
    for image in np.flatnonzero(np.diff(ends)).tolist():
        own = order[ends[image] : ends[image + 1]]
        xywh = rows.xywh[own]
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        exact = written_xywh(boxes, xywh)
        found[annotations.images[image].id] = Detections(
            torch.from_numpy(boxes),
            torch.from_numpy(rows.score[own]),
            torch.from_numpy(rows.label[own]),
            None if exact is None else torch.from_numpy(exact),
        )
    return found


def write_results(
    path: str | Path, detections: Mapping[int, Detections], annotations: AnnotationSet
) -> None:
    """Write detections by image id as a COCO results file, with the numbers of `as_entries`.

    Raises:
        DataError: a box or a score isn't a finite number.
    """
    ids = [category.id for category in annotations.categories]
    entries = [
        {"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score}
        for image_id, found in detections.items()
        for label, box, score in as_entries(found, f"image {image_id}")
    ]
    Path(path).write_text(json.dumps(entries), encoding="utf-8")


def as_entries(found: Detections, where: str) -> list[tuple[int, list[float], float]]:
    """Label, ``bbox`` (x, y, width, height) and score of each detection, as JSON numbers.

    Boxes have 8 significant digits, so that no width is lost; scores have as many digits as needed
    to represent the float exactly, so that their order doesn't change.

    Raises:
        DataError: a box or a score isn't a finite number.
    """
    boxes = found.boxes.detach().cpu().double().numpy().reshape(-1, 4)
    scores = found.scores.detach().cpu().numpy()
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise DataError(f"{where}: a detected box or score isn't a finite number")
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        (label, [float(f"{v:.{DIGITS}g}") for v in box], float(str(score)))
        for label, box, score in zip(found.labels.tolist(), boxes.tolist(), scores, strict=True)
    ]


class _Reader:
    """Converts entries to columns, and collects errors by kind."""

    def __init__(self, path: Path, annotations: AnnotationSet) -> None:
        self.path, self.annotations = path, annotations
        self.row_of = {record.id: row for row, record in enumerate(annotations.images)}
        self.label_of = category_index(annotations.categories)
        names = [category.name for category in annotations.categories]
        self.by_name = {n: label for label, n in enumerate(names) if names.count(n) == 1}
        self.wrong: dict[str, list[str]] = {}
        self.bad_ids: dict[str, set[int]] = {"image_id": set(), "category_id": set()}
        self.left_out: dict[str, list[str]] = {"file": [], "category": []}

    def read(self, entries: list[Any]) -> ResultRows:
        """The columns of all entries whose image and category are annotated."""
        by_file = self._images_by_file(entries)
        image, label, boxes, scores = [], [], [], []
        for index, entry in enumerate(entries):
            self.index = index
            if not isinstance(entry, dict):
                self._fault("entry", f"expected an object, found {shown(entry)}")
                continue
            row = self._image(entry, by_file)
            own = self._category(entry)
            box, score = self._box(entry), self._score(entry)
            if row is not None and own is not None and box is not None and score is not None:
                image.append(row)
                label.append(own)
                boxes.append(box)
                scores.append(score)
        self._raise()
        self._report_skipped(len(entries), bool(image))
        return ResultRows(
            np.array(image, np.int64),
            np.array(label, np.int64),
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array(scores, np.float64),
        )

    def _images_by_file(self, entries: list[Any]) -> dict[str, int]:
        names = (_file_name(entry) for entry in entries if isinstance(entry, dict))
        try:
            return match_file_names((n for n in names if n is not None), self.annotations)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None

    def _image(self, entry: dict[str, Any], by_file: Mapping[str, int]) -> int | None:
        """Row of the entry's image; None if it isn't annotated."""
        name = _file_name(entry)
        if name is not None:
            if name in by_file:
                return self.row_of[by_file[name]]
            number = whole_number(entry.get("image_id"))
            if number in self.row_of:
                return self.row_of[number]
            if "file_name" in entry and entry.get("image_id") is None:
                self.left_out["file"].append(name)
            else:
                self._fault(
                    "image_id", f"image_id {shown(name)} is not in {self.annotations.source}"
                )
            return None
        return self._known(entry, "image_id", self.row_of)

    def _category(self, entry: dict[str, Any]) -> int | None:
        name = entry.get("category")
        if isinstance(name, str):
            if name in self.by_name:
                return self.by_name[name]
            if all(name != category.name for category in self.annotations.categories):
                self.left_out["category"].append(name)
                return None
        return self._known(entry, "category_id", self.label_of)

    def _known(self, entry: dict[str, Any], field: str, known: Mapping[int, int]) -> int | None:
        if field not in entry:
            keys = ", ".join(map(shown, list(entry)[:10])) or "nothing"
            self._fault(f"no {field}", f"no {field!r}; it has {keys}")
            return None
        number = whole_number(entry[field])
        if number is not None and number in known:
            return known[number]
        if number is not None:
            self.bad_ids[field].add(number)
        self._fault(field, f"{field} {shown(entry[field])} is not in {self.annotations.source}")
        return None

    def _box(self, entry: dict[str, Any]) -> list[float] | None:
        value = entry.get("bbox")
        if "bbox" not in entry:
            self._fault("no bbox", f"no 'bbox'; it has {', '.join(map(shown, list(entry)[:10]))}")
        elif not isinstance(value, list) or len(value) != 4 or not all(map(_is_finite, value)):
            self._fault("bbox", f"bbox must be 4 finite numbers, found {shown(value)}")
        elif value[2] < 0 or value[3] < 0:
            self._fault("size", f"bbox {shown(value)} has a negative width or height")
        else:
            return [float(v) for v in value]
        return None

    def _score(self, entry: dict[str, Any]) -> float | None:
        if "score" not in entry:
            self._fault("no score", f"no 'score'; it has {', '.join(map(shown, list(entry)[:10]))}")
        elif not _is_finite(entry["score"]):
            found = shown(entry["score"])
            self._fault("score", f"score must be a finite number, found {found}")
        else:
            return float(entry["score"])
        return None

    def _fault(self, kind: str, text: str) -> None:
        known = self.wrong.setdefault(kind, [])
        known.append(f"entry {self.index}: {text}" if not known else "")

    def _raise(self) -> None:
        lines = []
        for kind, cases in self.wrong.items():
            more = f" ({len(cases)} entries like it)" if len(cases) > 1 else ""
            lines.append(f"{cases[0]}{more}{self._hint(kind)}")
        if lines:
            raise DataError(f"{self.path}: " + "\n  ".join(lines))

    def _hint(self, kind: str) -> str:
        bad = self.bad_ids.get(kind, set())
        if kind == "category_id" and bad and all(0 <= i < len(self.label_of) for i in bad):
            first = self.annotations.categories[0]
            return (
                "; are they labels starting at 0? Then write the annotations' ids: 0 is "
                f"{shown(first.name)}, id {first.id}"
            )
        if kind == "image_id" and bad:
            for shift in (1, -1):
                if all(i + shift in self.row_of for i in bad):
                    return f"; the ids match if {'increased' if shift == 1 else 'decreased'} by one"
            return "; are these the results of another split?"
        return ""

    def _report_skipped(self, total: int, any_kept: bool) -> None:
        for what, names in self.left_out.items():
            if not names:
                continue
            things = "files" if what == "file" else "category names"
            text = (
                f"{len(names)} of {total} entries name {things} that {self.annotations.source} "
                f"doesn't have, such as {shown(names[0])}"
            )
            if not any_kept and len(names) == total:
                raise DataError(f"{self.path}: {text}; are these the results of another split?")
            warn(self.path, f"{text}; they are skipped")


def _file_name(entry: Mapping[str, Any]) -> str | None:
    """The file name that identifies the entry's image; None if it has a number."""
    image_id = entry.get("image_id")
    name = entry.get("file_name") if image_id is None else image_id
    return name if isinstance(name, str) else None


def _read_list(path: Path) -> list[Any]:
    try:
        data = load_json(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    if isinstance(data, dict) and "annotations" in data:
        raise DataError(
            f"{path}: this is an annotation file; COCO results are a list of objects with "
            "image_id, category_id, bbox and score"
        )
    if not isinstance(data, list):
        raise DataError(f"{path}: expected a list of detections, found {shown(data)}")
    return data


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e300 and math.isfinite(value)  # type: ignore[arg-type]
