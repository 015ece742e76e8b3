"""Faults of a results file are named, with the likely cause; correct files give no warning."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperfocal.data import read_annotations
from hyperfocal.evaluation import read_results
from hyperfocal.types import AnnotationSet, DataError, Detections, HyperfocalWarning

Entry = dict[str, Any]
SIZES = [(640, 480), (500, 375), (333, 500), (1024, 768)]


@pytest.fixture
def truth(tmp_path: Path) -> AnnotationSet:
    """12 images of several sizes in two folders, 4 boxes each, 5 categories, ids with gaps."""
    rng = np.random.default_rng(0)
    images, boxes = [], []
    for n in range(12):
        width, height = SIZES[n % 4]
        name = f"{'ab'[n % 2]}/{n // 2:04d}.jpg"
        images.append({"id": 100 + n, "file_name": name, "width": width, "height": height})
        for _ in range(4):
            w, h = rng.uniform(0.1, 0.4, 2) * [width, height]
            x, y = rng.uniform(0, 1, 2) * [width - w, height - h]
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": 100 + n,
                    "category_id": int(rng.choice([1, 2, 3, 5, 8])),
                    "bbox": [round(float(v), 2) for v in (x, y, w, h)],
                    "area": float(w * h),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": f"category {i}"} for i in (1, 2, 3, 5, 8)]
    data = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "gt.json").write_text(json.dumps(data))
    return read_annotations(tmp_path / "gt.json", check="none", split="val")


def entries(truth: AnnotationSet, noise: float = 2.0) -> list[Entry]:
    """Detections near the ground truth, and two false ones per image."""
    rng, found = np.random.default_rng(1), []
    ids = [category.id for category in truth.categories]
    for record in truth.images:
        boxes = np.concatenate([record.boxes[:, :2], record.boxes[:, 2:] - record.boxes[:, :2]], 1)
        false = rng.uniform(0.05, 0.4, (2, 4)) * np.tile([record.width, record.height], 2)
        for box, label in zip(np.concatenate([boxes, false]), [*record.labels, 0, 1], strict=True):
            moved = box + rng.normal(0, noise, 4)
            found.append(
                {
                    "image_id": record.id,
                    "category_id": ids[label],
                    "bbox": [max(float(v), 0.5) for v in moved],
                    "score": float(rng.random()),
                }
            )
    return found


def read_with_warnings(
    truth: AnnotationSet, rows: list[Entry]
) -> tuple[dict[int, Detections], list[str]]:
    path = truth.source.parent / "results.json"
    path.write_text(json.dumps(rows))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_results(path, truth)
    assert all(w.category is HyperfocalWarning for w in caught)
    return found, [str(w.message).removeprefix(f"{path}: ") for w in caught]


Box = list[float]


def size_of(truth: AnnotationSet, row: Entry) -> tuple[float, float]:
    (record,) = [r for r in truth.images if r.id == row["image_id"]]
    return record.width, record.height


def xyxy(box: Box, w: float, h: float) -> Box:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def centre(box: Box, w: float, h: float) -> Box:
    return [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]]


def unit(k: float, form: Callable[[Box, float, float], Box]) -> Callable[[Box, float, float], Box]:
    return lambda box, w, h: [v * k / s for v, s in zip(form(box, w, h), (w, h, w, h), strict=True)]


def same(box: Box, w: float, h: float) -> Box:
    return box


def turned(form: Callable[[Box, float, float], Box]) -> Callable[[Box, float, float], Box]:
    return lambda box, w, h: [form(box, w, h)[i] for i in (1, 0, 3, 2)]


FORMS = {
    "x1, y1, x2, y2, not": xyxy,
    "centre x, centre y, width, height, not": centre,
    "y1, x1, y2, x2, not": turned(xyxy),
    "y, x, height, width, not": turned(same),
    "x, y, width, height as fractions": unit(1, same),
    "x1, y1, x2, y2 as fractions": unit(1, xyxy),
    "centre x, centre y, width, height as fractions": unit(1, centre),
    "x, y, width, height in percent": unit(100, same),
    "y1, x1, y2, x2 in thousandths": turned(unit(1000, xyxy)),
    "scaled by one factor, about 4": lambda box, w, h: [4 * v for v in box],
    "scaled by one factor, about 0.5": lambda box, w, h: [v / 2 for v in box],
    "scaled by a different factor in each image": lambda box, w, h: [
        v * min(800 / min(w, h), 1333 / max(w, h)) for v in box
    ],
}


@pytest.mark.parametrize("name", FORMS)
def test_boxes_in_another_form_are_named(truth: AnnotationSet, name: str) -> None:
    rows = entries(truth)
    for row in rows:
        row["bbox"] = FORMS[name](row["bbox"], *size_of(truth, row))
    _, messages = read_with_warnings(truth, rows)
    assert len(messages) == 1
    assert messages[0].startswith("boxes seem to be ")
    assert name in messages[0]
    assert "of 48 ground-truth boxes are matched" in messages[0]


@pytest.mark.parametrize("noise", [0.0, 2.0, 30.0, 60.0])
def test_right_results_are_not_complained_about(truth: AnnotationSet, noise: float) -> None:
    rows = entries(truth, noise)
    assert read_with_warnings(truth, rows)[1] == []
    for row in rows:
        row["category_id"] = 3
    assert read_with_warnings(truth, rows)[1] == []  # a poor classifier isn't a numbering


@pytest.mark.parametrize("seed", range(20))
def test_random_boxes_are_not_complained_about(truth: AnnotationSet, seed: int) -> None:
    rng, rows = np.random.default_rng(seed), entries(truth)
    for row in rows:
        w, h = size_of(truth, row)
        x1, x2 = sorted(rng.uniform(0, w, 2))
        y1, y2 = sorted(rng.uniform(0, h, 2))
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    assert read_with_warnings(truth, rows)[1] == []


def test_images_without_results_are_counted(truth: AnnotationSet) -> None:
    rows = [row for row in entries(truth) if row["image_id"] == 100]
    assert read_with_warnings(truth, rows)[1] == [
        "results for 1 of 12 images; the 44 boxes of the others count as missed"
    ]
    assert read_with_warnings(truth, [])[1] == [
        "results for 0 of 12 images; the 48 boxes of the others count as missed"
    ]


def test_scores_copies_and_useless_boxes_are_counted(truth: AnnotationSet) -> None:
    rows = entries(truth)
    _, messages = read_with_warnings(truth, [row | {"score": 100 * row["score"]} for row in rows])
    assert "scores are outside [0, 1]" in messages[0]
    assert read_with_warnings(truth, [*rows, *rows[:7]])[1] == [
        "7 of 79 detections are duplicates (same image, category, box and score), which count as "
        "false positives"
    ]
    empty = rows[0] | {"bbox": [5, 5, 0, 3]}
    beside = rows[0] | {"bbox": [5000, 5, 3, 3]}
    messages = read_with_warnings(truth, [*rows, empty, beside])[1]
    assert messages[0].startswith("1 of 74 boxes have no width or height")
    assert messages[1].startswith("1 of 74 boxes are outside their image")


def test_shifted_and_renumbered_ids_are_named(truth: AnnotationSet) -> None:
    rows = entries(truth)
    moved = [row | {"image_id": row["image_id"] + 1} for row in rows if row["image_id"] < 111]
    (text,) = read_with_warnings(truth, moved)[1][1:]
    assert text.startswith("image ids seem to be too high by one: interpreted so, 44 of 44")
    shift = {2: 1, 3: 2, 5: 3, 8: 5, 1: 8}
    other = [row | {"category_id": shift[row["category_id"]]} for row in rows]
    (text,) = read_with_warnings(truth, other)[1]
    assert text.startswith("categories seem to be numbered differently")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_id": 99},
            r"entry 0: image_id 99 .* \(6 entries like it\); the ids match if increased",
        ),
        ({"image_id": 5}, r"entry 0: image_id 5 .*; are these the results of another split\?"),
        ({"category_id": 0}, r"category_id 0 .* labels starting at 0.*'category 1', id 1"),
        ({"score": float("nan")}, r"score must be a finite number, found nan \(6 entries"),
        ({"bbox": [1, 2, -3, 4]}, "negative width or height"),
    ],
)
def test_what_cannot_be_used_is_counted_and_explained(
    truth: AnnotationSet, change: Entry, message: str
) -> None:
    rows = [row | (change if row["image_id"] == 100 else {}) for row in entries(truth)]
    with pytest.raises(DataError, match=message):
        read_with_warnings(truth, rows)


def by_file(truth: AnnotationSet, start: str = "photos") -> list[Entry]:
    rows = []
    for row in entries(truth):
        (record,) = [r for r in truth.images if r.id == row["image_id"]]
        name = record.path.relative_to(truth.source.parent)
        rows.append({k: v for k, v in row.items() if k != "image_id"})
        rows[-1]["file_name"] = f"{start}/{name}" if start else str(name)
    return rows


def same_detections(a: dict[int, Detections], b: dict[int, Detections]) -> bool:
    return a.keys() == b.keys() and all((a[k].boxes == b[k].boxes).all() for k in a)


def test_results_by_file_name_are_those_by_id(truth: AnnotationSet) -> None:
    expected, _ = read_with_warnings(truth, entries(truth))
    for start in ("photos", "", "/data/PHOTOS", "c:\\photos"):
        rows = by_file(truth, start)
        if "\\" in start:
            for row in rows:
                row["file_name"] = row["file_name"].replace("/", "\\").upper()
        found, messages = read_with_warnings(truth, rows)
        assert messages == []
        assert same_detections(found, expected)
    stems = [row | {"image_id": row["file_name"][:-4]} for row in by_file(truth)]
    assert same_detections(read_with_warnings(truth, stems)[0], expected)
    floats = [row | {"image_id": float(row["image_id"])} for row in entries(truth)]
    assert same_detections(read_with_warnings(truth, floats)[0], expected)


def test_a_category_is_known_by_its_name(truth: AnnotationSet) -> None:
    expected, _ = read_with_warnings(truth, entries(truth))
    rows = [
        row | {"category": f"category {row['category_id']}", "category_id": 77}
        for row in entries(truth)
    ]
    found, messages = read_with_warnings(truth, rows)
    assert messages == []
    assert all((found[i].labels == expected[i].labels).all() for i in expected)
    found, messages = read_with_warnings(truth, [*rows, rows[0] | {"category": "other"}])
    assert messages == [
        f"1 of 73 entries name category names that {truth.source} doesn't have, such as 'other'; "
        "they are skipped"
    ]


def test_ambiguous_file_names_are_errors_and_others_are_left_out(truth: AnnotationSet) -> None:
    rows = by_file(truth)
    with pytest.raises(DataError, match=r"'0000.jpg' matches 2 images of .*gt.json"):
        read_with_warnings(truth, [*rows, rows[0] | {"file_name": "0000.jpg"}])
    twin = rows[0] | {"file_name": rows[0]["file_name"].replace("photos", "others")}
    with pytest.raises(DataError, match=r"'photos/a/0000.jpg' and 'others/a/0000.jpg' both match"):
        read_with_warnings(truth, [*rows, twin])
    found, messages = read_with_warnings(
        truth, [*rows, rows[0] | {"file_name": "photos/a/other.jpg"}]
    )
    assert len(found) == 12
    assert messages[0].startswith("1 of 73 entries name files that")
    with pytest.raises(DataError, match="another split"):
        read_with_warnings(truth, [row | {"file_name": "z.jpg"} for row in rows])
