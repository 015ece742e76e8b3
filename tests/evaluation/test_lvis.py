"""LVIS's metrics: the federated rules by hand, and thousands of cases against ``lvis``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperfocal import cli
from hyperfocal.data import read_annotations
from hyperfocal.evaluation import LvisEvaluator
from hyperfocal.types import AnnotationSet, CategoryCounts, ConfigError, DataError, Detections

CASES = int(os.environ.get("HYPERFOCAL_LVIS_CASES", "200"))
"""Generated cases compared with the package; more of them for a longer look."""
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
NAMES += ["AR@300", "ARs@300", "ARm@300", "ARl@300"]


def as_file(images: list[dict[str, Any]], boxes: list[dict[str, Any]], k: int) -> dict[str, Any]:
    return {
        "images": [{"height": 400, "width": 400, "coco_url": f"http://x/val2017/{i['id']}.jpg"} | i
                   for i in images],
        "annotations": [{"id": n + 1, "area": b["bbox"][2] * b["bbox"][3], "segmentation": []} | b
                        for n, b in enumerate(boxes)],
        "categories": [{"id": 10 * c + 3, "name": f"c{c}", "frequency": "rcf"[c % 3]}
                       for c in range(k)],
    }  # fmt: skip


def read(tmp_path: Path, data: dict[str, Any]) -> AnnotationSet:
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(data))
    return read_annotations(path, check="none")


def ours(annotations: AnnotationSet, results: list[dict[str, Any]]) -> dict[str, float]:
    label_of = {category.id: n for n, category in enumerate(annotations.categories)}
    evaluator = LvisEvaluator(annotations)
    for image_id in {r["image_id"] for r in results}:
        mine = [r for r in results if r["image_id"] == image_id]
        boxes = torch.tensor([r["bbox"] for r in mine], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([r["score"] for r in mine], dtype=torch.float64)
        labels = torch.tensor([label_of[r["category_id"]] for r in mine])
        evaluator.update([Detections(boxes, scores, labels)], [image_id])
    return evaluator.compute()


def theirs(data: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    from lvis import LVIS, LVISEval, LVISResults

    api = LVIS.__new__(LVIS)
    api.dataset = data
    api.logger = __import__("logging").getLogger("lvis")
    api._create_index()
    found = LVISResults(api, [dict(r) for r in results])
    evaluation = LVISEval(api, found, "bbox")
    evaluation.run()
    return {k: float("nan") if v == -1 else float(v) for k, v in evaluation.results.items()}


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Few images and categories, coarse scores and jittered copies: ties and doubles abound."""
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    ids = [3 + 10 * c for c in range(k)]
    images, boxes, results = [], [], []
    for image in rng.permutation(n) + 1:
        split = rng.integers(0, 4, k)  # positive, negative, unverified, positive
        here = [c for c, s in zip(ids, split, strict=True) if s in (0, 3)]
        negative = [c for c, s in zip(ids, split, strict=True) if s == 1]
        partly = [c for c in here + negative if rng.random() < 0.25]
        images.append({"id": int(image), "neg_category_ids": negative,
                       "not_exhaustive_category_ids": partly})  # fmt: skip
        own = []
        for c in here:
            for _ in range(rng.integers(0, 4)):
                side = rng.choice([8, 16, 32, 64, 96, 128], 2)
                box = [*rng.integers(0, 100, 2).tolist(), *side.tolist()]
                area = float(rng.choice([side[0] * side[1], 1024.0, 9216.0]))
                boxes.append({"image_id": int(image), "category_id": c, "bbox": box, "area": area})
                own.append((c, box))
        many = 320 if rng.random() < 0.15 else int(rng.integers(0, 14))
        for _ in range(many):
            if own and rng.random() < 0.75:
                c, box = own[rng.integers(len(own))]
                box = [v + int(d) for v, d in zip(box, rng.integers(-3, 4, 4), strict=True)]
                c = c if rng.random() < 0.8 else int(rng.choice(ids))
            else:
                c = int(rng.choice(ids))
                box = [*rng.integers(0, 100, 2).tolist(), *rng.choice([32, 96, 50], 2).tolist()]
            score = float(rng.integers(0, 8) / 8)
            results.append({"image_id": int(image), "category_id": c, "bbox": box, "score": score})
    order = rng.permutation(len(results))
    return as_file(images, boxes, k), [results[n] for n in order]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_random_cases_equal_the_lvis_package(tmp_path, monkeypatch):
    pytest.importorskip("lvis")
    monkeypatch.setattr(np, "float", float, raising=False)  # the package is older than numpy 1.24
    compared = 0
    for seed in range(CASES):
        data, results = random_case(seed)
        if not data["annotations"] or not results:
            continue
        mine, peer = ours(read(tmp_path, data), results), theirs(data, results)
        assert list(mine) == NAMES
        for name in NAMES:
            assert mine[name] == pytest.approx(peer[name], abs=1e-6, nan_ok=True), (seed, name)
        compared += 1
    assert compared > 0.8 * CASES


BOX = [10, 10, 40, 40]


def one_image(negative: list[int] = [], partly: list[int] = []) -> dict[str, Any]:  # noqa: B006
    image = {"id": 1, "neg_category_ids": negative, "not_exhaustive_category_ids": partly}
    return as_file([image], [{"image_id": 1, "category_id": 3, "bbox": BOX}], 3)


def found(category: int, score: float, box: list[int] = BOX) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


AWAY = [200, 200, 40, 40]


def test_a_miss_counts_unless_the_category_is_not_exhaustively_annotated(tmp_path):
    both = [found(3, 0.9, AWAY), found(3, 0.5)]
    assert ours(read(tmp_path, one_image()), both)["AP"] == pytest.approx(0.5)
    assert ours(read(tmp_path, one_image(partly=[3])), both)["AP"] == pytest.approx(1)


def test_the_cut_comes_before_unverified_categories_are_dropped(tmp_path):
    crowd_out = [found(13, 0.9)] * 300 + [found(3, 0.5)]
    annotations = read(tmp_path, one_image())
    assert ours(annotations, crowd_out[1:])["AP"] == pytest.approx(1)
    assert ours(annotations, crowd_out)["AP"] == 0


def test_negative_images_count_against_a_category(tmp_path):
    data = one_image()
    for negative, expected in (([], 1.0), ([3], 0.5)):
        image = {"id": 2, "neg_category_ids": negative, "not_exhaustive_category_ids": []}
        whole = as_file([data["images"][0], image], data["annotations"], 3)
        elsewhere = found(3, 0.9) | {"image_id": 2}
        value = ours(read(tmp_path, whole), [elsewhere, found(3, 0.5)])["AP"]
        assert value == pytest.approx(expected)


def test_without_detections_ap_is_0_and_groups_without_gt_are_nan(tmp_path):
    metrics = LvisEvaluator(read(tmp_path, one_image())).compute()
    assert metrics["AP"] == metrics["APr"] == metrics["AR@300"] == 0
    assert np.isnan(metrics["APf"])
    assert np.isnan(metrics["APs"])


def test_merged_processes_equal_one(tmp_path):
    data, results = next(
        case for case in map(random_case, range(50)) if len(case[0]["images"]) > 2 and case[1]
    )
    annotations = read(tmp_path, data)
    whole = ours(annotations, results)
    images = sorted({r["image_id"] for r in results})
    label_of = {category.id: n for n, category in enumerate(annotations.categories)}
    shares = [LvisEvaluator(annotations), LvisEvaluator(annotations)]
    for n, image_id in enumerate(reversed(images)):
        mine = [r for r in results if r["image_id"] == image_id]
        boxes = torch.tensor([r["bbox"] for r in mine], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([r["score"] for r in mine], dtype=torch.float64)
        labels = torch.tensor([label_of[r["category_id"]] for r in mine])
        shares[n % 2].update([Detections(boxes, scores, labels)], [image_id])
    shares[0].merge(shares[1].state())
    assert shares[0].compute() == pytest.approx(whole, nan_ok=True)


def test_other_annotations_and_broken_lists_are_errors(tmp_path):
    data = one_image()
    for image in data["images"]:
        del image["neg_category_ids"]
    with pytest.raises(ConfigError, match="neg_category_ids"):
        LvisEvaluator(read(tmp_path, data))
    with pytest.raises(ConfigError, match="counts of 5 training categories"):
        LvisEvaluator(read(tmp_path, one_image()), counts=CategoryCounts((1,) * 5, (1,) * 5, 9))
    with pytest.raises(DataError, match="names 99"):
        read(tmp_path, one_image(negative=[99]))
    broken = one_image()
    del broken["images"][0]["not_exhaustive_category_ids"]
    with pytest.raises(DataError, match="not_exhaustive_category_ids"):
        read(tmp_path, broken)


def test_an_lvis_v1_image_is_named_by_the_end_of_its_address(tmp_path):
    record = read(tmp_path, one_image()).images[0]
    assert record.path == tmp_path / "val2017" / "1.jpg"


@pytest.mark.filterwarnings("default::hyperfocal.types.HyperfocalWarning")
def test_the_command_measures_by_lvis_rules(tmp_path, capsys):
    path, file, out = tmp_path / "lvis.json", tmp_path / "results.json", tmp_path / "out.json"
    path.write_text(json.dumps(one_image()))
    file.write_text(json.dumps([found(13, 0.9), found(3, 0.5)]))
    words = ["evaluate", "--detections", str(file), "--data.annotations", str(path)]
    assert cli.main([*words, "--protocol", "lvis", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["metrics"]["APr"] == pytest.approx(1)
    capsys.readouterr()
    assert cli.main(words) == 0
    assert "--protocol lvis" in capsys.readouterr().err
    plain = one_image()
    del plain["images"][0]["neg_category_ids"]
    path.write_text(json.dumps(plain))
    assert cli.main([*words, "--protocol", "lvis"]) == 2
    assert "neg_category_ids" in capsys.readouterr().err
