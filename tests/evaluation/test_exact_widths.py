"""Widths of any number of decimals: metrics equal pycocotools' where an IoU is on a threshold."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hyperfocal.data import read_annotations
from hyperfocal.evaluation import CocoEvaluator, LvisEvaluator, read_results

Entry = dict[str, Any]
TWELVE = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def write(folder: Path, boxes: list[Entry], found: list[Entry], **more: Any) -> tuple[Path, Path]:
    ids = sorted({b["image_id"] for b in boxes})
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 900, "height": 900} | more for i in ids]
    data = {
        "images": images,
        "annotations": [
            {"id": n, "category_id": 1, "iscrowd": 0, "area": b["bbox"][2] * b["bbox"][3]} | b
            for n, b in enumerate(boxes, 1)
        ],
        "categories": [{"id": 1, "name": "cat", "frequency": "f"}],
    }
    (folder / "gt.json").write_text(json.dumps(data))
    (folder / "results.json").write_text(json.dumps(found))
    return folder / "gt.json", folder / "results.json"


def ours(gt: Path, results: Path) -> CocoEvaluator:
    annotations = read_annotations(gt, check="none", split="val")
    evaluator = CocoEvaluator(annotations)
    found = read_results(results, annotations)
    evaluator.update(list(found.values()), list(found))
    return evaluator


def theirs(gt: Path, results: Path) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(gt))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {n: float(v) for n, v in zip(TWELVE, evaluation.stats, strict=True) if v >= 0}


def test_a_height_of_fourteen_decimals_is_kept(tmp_path: Path) -> None:
    box = {"image_id": 1, "bbox": [10.0, 20.0, 60.0, 150.24166]}
    near = {"image_id": 1, "bbox": [10.0, 20.0, 60.0, 112.68124499999999], "category_id": 1}
    files = write(tmp_path, [box], [near | {"score": 0.9}])
    assert theirs(*files)["AP"] == pytest.approx(0.6)
    assert ours(*files).compute()["AP"] == pytest.approx(0.6)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_on_thresholds_equal_pycocotools(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, found = [], []
    for image_id in range(1, 31):
        x, y, w, h = rng.uniform([0, 0, 5, 5], [300, 300, 300, 300])
        if seed % 2:
            x, y, w, h = (round(v, int(rng.integers(1, 16))) for v in (x, y, w, h))
        threshold = rng.choice(np.linspace(0.5, 0.95, 10))
        near = [x, y, w, h * threshold] if rng.random() < 0.5 else [x, y, w * threshold, h]
        boxes.append({"image_id": image_id, "bbox": [float(v) for v in (x, y, w, h)]})
        found.append(
            {"image_id": image_id, "bbox": [float(v) for v in near], "category_id": 1}
            | {"score": float(rng.random())}
        )
    files = write(tmp_path, boxes, found)
    evaluator, expected = ours(*files), theirs(*files)
    metrics = evaluator.compute()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    other = CocoEvaluator(evaluator.annotations)
    other.merge(evaluator.state())  # as another process would send it
    assert other.compute() == pytest.approx(metrics, nan_ok=True)


def test_lvis_uses_the_same_widths(tmp_path: Path) -> None:
    box = {"image_id": 1, "bbox": [10.0, 20.0, 60.0, 150.24166]}
    near = {"image_id": 1, "bbox": [10.0, 20.0, 60.0, 112.68124499999999], "category_id": 1}
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    gt, results = write(tmp_path, [box], [near | {"score": 0.9}], **lists)
    annotations = read_annotations(gt, check="none", split="val")
    evaluator = LvisEvaluator(annotations)
    found = read_results(results, annotations)
    evaluator.update(list(found.values()), list(found))
    assert evaluator.compute()["AP"] == pytest.approx(0.6)


def test_joined_files_keep_their_widths(tmp_path: Path) -> None:
    box = {"image_id": 1, "bbox": [10.0, 20.0, 60.0, 112.68124499999999]}
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(write(tmp_path / name, [box], [])[0])
    annotations = read_annotations(files, check="none", split="val")
    assert [r.xywh.tolist() for r in annotations.images if r.xywh is not None] == [
        [box["bbox"]]
    ] * 2


def test_usual_widths_take_no_memory_of_their_own(tmp_path: Path) -> None:
    box = {"image_id": 1, "bbox": [10.01, 20.02, 60.3, 150.24]}
    found = box | {"category_id": 1, "score": 0.5}
    gt, results = write(tmp_path, [box], [found])
    annotations = read_annotations(gt, check="none", split="val")
    assert annotations.images[0].xywh is None
    assert read_results(results, annotations)[1].xywh is None
