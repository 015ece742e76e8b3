"""Annotation files in UTF-16, as Windows tools and PowerShell write them, for every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperfocal.data import read_annotations
from hyperfocal.inspection import find_splits

BOXES = {"a": [("dög", (10, 20, 40, 60)), ("cat", (0, 0, 30, 15))], "b": [("cat", (5, 5, 25, 45))]}
NAMES = ["cat", "dög"]


def coco(root: Path) -> Path:
    files = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(BOXES)]
    objects = [
        {
            "id": 10 * n + k,
            "image_id": n,
            "category_id": NAMES.index(category),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
        }
        for n, boxes in enumerate(BOXES.values())
        for k, (category, (x1, y1, x2, y2)) in enumerate(boxes)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    data = {"images": files, "annotations": objects, "categories": categories}
    (root / "train.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return root / "train.json"


def coco_folder(root: Path) -> Path:
    return coco(root).parent


def yolo(root: Path) -> Path:
    for name, boxes in BOXES.items():
        lines = [
            f"{NAMES.index(c)} {(x1 + x2) / 200} {(y1 + y2) / 160} {(x2 - x1) / 100} "
            f"{(y2 - y1) / 80}"
            for c, (x1, y1, x2, y2) in boxes
        ]
        (root / f"{name}.txt").write_text("\r\n".join(lines), encoding="utf-8")
    text = f"names: [{', '.join(NAMES)}]\ntrain: .\n"
    (root / "data.yaml").write_text(text, encoding="utf-8")
    return root / "data.yaml"


def voc(root: Path) -> Path:
    for name, boxes in BOXES.items():
        objects = "".join(
            f"<object><name>{c}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for c, (x1, y1, x2, y2) in boxes
        )
        # A declaration that isn't changed when a tool rewrites the file in UTF-16.
        text = f'<?xml version="1.0" encoding="utf-8"?><annotation>{objects}</annotation>'
        (root / f"{name}.xml").write_text(text, encoding="utf-8")
    return root


def tensorflow_csv(root: Path) -> Path:
    head = ["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]
    rows = [[f"{name}.png", 100, 80, c, *box] for name, boxes in BOXES.items() for c, box in boxes]
    with (root / "train.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return root / "train.csv"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("write", [coco, coco_folder, yolo, voc, tensorflow_csv])
def test_utf16_reads_as_utf8(write, encoding, tmp_path):
    for name in BOXES:
        Image.new("RGB", (100, 80)).save(tmp_path / f"{name}.png")
    annotations = write(tmp_path)
    before = read_annotations(annotations, tmp_path)
    splits = None if write is tensorflow_csv else find_splits(tmp_path)  # it finds no CSV files
    for file in tmp_path.iterdir():
        if file.suffix != ".png":
            text = file.read_bytes().decode()
            file.write_bytes(f"\ufeff{text}".encode(encoding))
    after = read_annotations(annotations, tmp_path)
    assert after.categories == before.categories
    assert {category.name for category in after.categories} == set(NAMES)
    assert splits is None or find_splits(tmp_path) == splits
    for ours, theirs, wanted in zip(after.images, before.images, BOXES.values(), strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_allclose(ours.boxes, [box for _, box in wanted], atol=1e-4)
