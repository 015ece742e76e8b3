"""Detections as a COCO results file: ``[{"image_id", "category_id", "bbox", "score"}, ...]``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperfocal.files import load_json, shown
from hyperfocal.types import AnnotationSet, DataError, Detections, category_index


def read_results(path: str | Path, annotations: AnnotationSet) -> dict[int, Detections]:
    """Read anyone's COCO results: ``bbox`` is x, y, width, height in original pixels.

    Args:
        path: JSON file, a list of objects with at least the four fields above.
        annotations: what the results are of.

    Returns:
        Detections by image id, in the order of the file (it decides between equal scores). Boxes
        and scores are float64, as exact as the file. Images without results are left out.

    Raises:
        DataError: not a results file, or an entry with an unknown image or category or a bad box
            or score; the message names the file, the entry counted from 0, and the value.
    """
    entries = _read_list(Path(path))
    known_images = {record.id for record in annotations.images}
    label_of = category_index(annotations.categories)
    rows: dict[int, list[tuple[float, ...]]] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: entry {index}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected an object, found {shown(entry)}")
        image_id = _known(entry, "image_id", known_images, where, annotations.source)
        category_id = _known(entry, "category_id", label_of, where, annotations.source)
        x, y, w, h = _box(entry, where)
        score = _number(entry, "score", where)
        row = (x, y, x + w, y + h, score, label_of[category_id])
        rows.setdefault(image_id, []).append(row)
    found = {}
    for image_id, image_rows in rows.items():
        table = torch.tensor(image_rows, dtype=torch.float64)
        found[image_id] = Detections(table[:, :4], table[:, 4], table[:, 5].long())
    return found


def write_results(
    path: str | Path, detections: Mapping[int, Detections], annotations: AnnotationSet
) -> None:
    """Write detections, by image id, as a COCO results file.

    Boxes are rounded to 1e-4 px. Scores are written with as few digits as bring the same float
    back, so that their order stays what it was.

    Raises:
        DataError: a box or a score isn't a finite number.
    """
    entries = []
    for image_id, found in detections.items():
        boxes = found.boxes.detach().cpu().double().numpy().reshape(-1, 4)
        scores = found.scores.detach().cpu().numpy()
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise DataError(f"image {image_id}: a detected box or score is not a finite number")
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).round(4)
        for box, score, label in zip(boxes.tolist(), scores, found.labels.tolist(), strict=True):
            entries.append(
                {
                    "image_id": image_id,
                    "category_id": annotations.categories[label].id,
                    "bbox": box,
                    "score": float(str(score)),
                }
            )
    Path(path).write_text(json.dumps(entries), encoding="utf-8")


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


def _field(entry: dict[str, Any], field: str, where: str) -> Any:
    if field not in entry:
        raise DataError(
            f"{where}: no {field!r}; it has {', '.join(map(shown, list(entry)[:10])) or 'nothing'}"
        )
    return entry[field]


def _known(
    entry: dict[str, Any], field: str, known: set[int] | dict[int, int], where: str, source: Path
) -> int:
    value = _field(entry, field, where)
    if type(value) is not int or value not in known:
        raise DataError(f"{where}: {field} {shown(value)} is not in {source}")
    return value


def _box(entry: dict[str, Any], where: str) -> list[float]:
    value = _field(entry, "bbox", where)
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_finite, value)):
        raise DataError(f"{where}: bbox must be 4 finite numbers, found {shown(value)}")
    if value[2] < 0 or value[3] < 0:
        raise DataError(f"{where}: bbox {shown(value)} has a negative width or height")
    return [float(v) for v in value]


def _number(entry: dict[str, Any], field: str, where: str) -> float:
    value = _field(entry, field, where)
    if not _is_finite(value):
        raise DataError(f"{where}: {field} must be a finite number, found {shown(value)}")
    return float(value)


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) <= 1e300 and math.isfinite(value)  # type: ignore[arg-type]
