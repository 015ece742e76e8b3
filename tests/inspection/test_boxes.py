"""Duplicate boxes, and boxes in the wrong format."""

from __future__ import annotations

import numpy as np
import torch

from hyperfocal.inspection.boxes import near_pairs
from hyperfocal.ops import box_iou


def test_near_pairs_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (300, 2)).astype(float)
    boxes = np.concatenate([corners, corners + rng.integers(1, 8, (300, 2))], axis=1)
    groups = rng.integers(0, 9, 300)
    for least in (0.3, 0.95):
        first, second, iou = near_pairs(boxes, groups, least)
        whole = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
        wanted = {
            (a, b)
            for a in range(300)
            for b in range(a + 1, 300)
            if groups[a] == groups[b] and whole[a, b] >= least
        }
        assert set(zip(first.tolist(), second.tolist(), strict=True)) == wanted
        np.testing.assert_allclose(iou, whole[first, second], rtol=1e-12)


def test_many_boxes_of_one_size_take_no_endless_time(monkeypatch):
    monkeypatch.setattr("hyperfocal.inspection.boxes.MAX_NEIGHBOURS", 3)
    corners = np.stack(np.meshgrid(np.arange(30.0), np.arange(30.0)), axis=-1).reshape(-1, 2) * 9
    boxes = np.concatenate([corners, corners + 5], axis=1)
    twins = np.concatenate([boxes, boxes[::-1]])
    first, second, _ = near_pairs(twins, np.zeros(len(twins), np.int64), 0.95)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {
        (n, 1799 - n) for n in range(900)
    }


def test_no_boxes_have_no_pairs():
    first, second, iou = near_pairs(np.zeros((0, 4)), np.zeros(0, np.int64), 0.5)
    assert len(first) == len(second) == len(iou) == 0


def test_doubled_boxes(two):
    rows = two.data["train"]["annotations"]
    twin = two.annotate("train", image_id=1, bbox=list(rows[0]["bbox"]))
    x, y, w, h = rows[0]["bbox"]
    two.annotate("train", image_id=1, bbox=[x, y, w, h + 1])
    two.annotate("train", image_id=1, category_id=2, bbox=[x, y + 0.5, w, h])
    found = two.examine()
    exact = two.only(found, "duplicate_boxes")
    assert exact.count == 1
    assert exact.cases[0].annotation == f"annotation id {twin['id']}"
    assert "duplicate of annotation id 1, cat" in str(exact.cases[0])
    assert two.only(found, "near_duplicate_boxes").count == 1
    assert "ant, duplicate of" in str(two.only(found, "two_categories_one_box").cases[0])


def test_crowds_may_cover_objects(two):
    rows = two.data["train"]["annotations"]
    two.annotate("train", image_id=1, bbox=list(rows[0]["bbox"]), iscrowd=1)
    assert "duplicate_boxes" not in two.kinds(two.examine())


def test_corners_where_sizes_are_meant(two):
    for row in two.data["train"]["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x + 40, y + 25, x + w + 40, y + h + 25]
    found = two.examine()
    finding = two.only(found, "box_order")
    assert (finding.severity, finding.split) == ("error", "train")


def test_large_boxes_that_stick_out_are_not_taken_for_corners(two):
    for row in two.data["train"]["annotations"]:
        row["bbox"] = [60, 50, 150, 40]
    assert "box_order" not in two.kinds(two.examine())
