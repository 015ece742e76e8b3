"""The analytic best IoU against that of all anchors on a grid."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hyperfocal.inspection.anchors import (
    BoxTable,
    best_iou,
    check_anchors,
    measure_fit,
    resized_boxes,
)
from hyperfocal.models import ATSS, AnchorGenerator
from hyperfocal.ops import box_iou
from hyperfocal.recipes import load_recipe

STRIDES = (8, 16, 32, 64, 128)


def table(boxes, hw):
    count = len(boxes)
    zeros = np.zeros(count, np.int64)
    return BoxTable(boxes, np.tile(np.array(hw), (count, 1)), zeros, zeros, zeros)


@pytest.mark.parametrize(
    "anchors",
    [
        AnchorGenerator.Config(),
        AnchorGenerator.Config(base_scales=(2.0, 3.0), scales_per_octave=1, ratios=(0.3, 4.0)),
        AnchorGenerator.Config(center_offset=0.5),
        AnchorGenerator.Config(style="torchvision"),
    ],
)
@pytest.mark.parametrize("hw", [(256, 448), (160, 96), (32, 32)])
def test_best_iou_is_the_maximum_over_all_anchors(anchors, hw):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-5, np.array(hw)[::-1], (400, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.5, 300, (400, 2))], axis=1)
    laid = anchors.build(STRIDES)(hw, torch.device("cpu")).boxes.double()
    wanted = box_iou(torch.from_numpy(boxes), laid).amax(dim=1).numpy()
    np.testing.assert_allclose(best_iou(table(boxes, hw), anchors, STRIDES), wanted, atol=1e-5)


def test_boxes_are_measured_after_the_resize(two):
    experiment = two.experiment()
    found = two.examine()
    data = experiment.data
    assert found.train is not None
    got = resized_boxes(found.train, data.train_transform, data.divisor)
    # 200 x 160 becomes 160 x 128.
    record = found.train.images[int(got.image[0])]
    np.testing.assert_allclose(got.boxes[0], record.boxes[0] * 0.8)
    assert got.hw[0].tolist() == [128, 160]


def test_small_and_unmatched_boxes_are_reported_with_their_category(two):
    for image in range(1, 21):
        two.annotate("train", image_id=image, category_id=2, bbox=[3, 3, 6, 6])
        two.annotate("train", image_id=image, category_id=2, bbox=[2, 140, 180, 6])
    found = two.examine()
    small = two.only(found, "smaller_than_anchors")
    assert small.severity == "warning"
    assert "ant 40% of 50" in small.text
    missed = two.only(found, "no_anchor")
    assert "ant 80% of 50" in missed.text
    assert missed.count == 40
    assert found.fit is not None
    assert found.fit.share == pytest.approx(40 / 70)


def test_detectors_without_a_fixed_iou_are_not_judged_by_one(two):
    found = two.examine()
    experiment = load_recipe("demo")
    experiment = dataclasses.replace(experiment, model=ATSS.Config())
    assert found.train is not None
    assert measure_fit(experiment, found.train) is None
    assert check_anchors(experiment, found.train, None) == []
