"""FCOS's assigner against a loop over locations, and cases by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.assign import FCOSAssigner, RangeLimits, assign_fcos
from hyperfocal.types import ConfigError, Priors, Target

K = 3
LIMITS: list[RangeLimits] = ["closed", "open", "half_open"]
GridPriors = Callable[..., Priors]
BOX = st.tuples(*[st.integers(0, 44)] * 2, *[st.integers(2, 60)] * 2, st.integers(0, K - 1))


def target(boxes: list[tuple[int, ...]]) -> Target:
    corners = [[x, y, x + w, y + h] for x, y, w, h, _ in boxes]
    return Target(
        torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        torch.tensor([b[4] for b in boxes], dtype=torch.long),
    )


def reference(
    priors: Priors, boxes: list[tuple[int, ...]], radius: float | None, limits: RangeLimits
) -> tuple[list[int], list[int]]:
    labels, rows = [], []
    for (cx, cy), stride in zip(priors.centers.tolist(), priors.strides.tolist(), strict=True):
        lower = {8: -1.0, 16: 64.0, 32: 128.0}[int(stride)]
        upper = {8: 64.0, 16: 128.0, 32: 1e9}[int(stride)]
        found: tuple[float, int] | None = None
        for row, (x, y, w, h, _) in enumerate(boxes):
            sides = (cx - x, cy - y, x + w - cx, y + h - cy)
            near = radius is None or (
                abs(cx - x - w / 2) < radius * stride and abs(cy - y - h / 2) < radius * stride
            )
            far = max(sides)
            in_range = {
                "closed": lower <= far <= upper,
                "open": lower < far < upper,
                "half_open": lower < far <= upper,
            }[limits]
            fits = min(sides) > 0 and near and in_range
            if fits and (found is None or w * h < found[0]):
                found = (w * h, row)
        labels.append(K if found is None else boxes[found[1]][4])
        rows.append(0 if found is None else found[1])
    return labels, rows


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("radius", [None, 0.5, 1.5])
@settings(deadline=None, max_examples=40)
@given(boxes=st.lists(BOX, max_size=4))
def test_same_as_the_rule(
    grid_priors: GridPriors,
    radius: float | None,
    limits: RangeLimits,
    boxes: list[tuple[int, ...]],
) -> None:
    # Four times larger, so that all levels' ranges are met.
    priors = grid_priors()
    for scale in (1, 4):
        scaled = Priors(priors.boxes * scale, priors.strides, priors.level_sizes)
        large = [(*(v * scale for v in box[:4]), box[4]) for box in boxes]
        labels, rows = assign_fcos(scaled, target(large), K, radius, range_limits=limits)
        assert (labels.tolist(), rows.tolist()) == reference(scaled, large, radius, limits)


def points(*centers: tuple[float, float], stride: float = 8.0) -> Priors:
    """Locations on one middle level of three."""
    c = torch.tensor([(0.0, 0.0), *centers, (0.0, 0.0)])
    return Priors(
        torch.cat((c - stride / 2, c + stride / 2), dim=1),
        torch.tensor([stride / 2] + [stride] * len(centers) + [stride * 2]),
        (1, len(centers), 1),
    )


def assigned(priors: Priors, boxes: list[tuple[int, ...]], **kwargs: object) -> list[int]:
    return assign_fcos(priors, target(boxes), K, **kwargs)[0][1:-1].tolist()


@pytest.mark.parametrize("limits", LIMITS)
def test_which_limits_belong_to_a_levels_range(limits: RangeLimits) -> None:
    priors = points((50, 50))  # a middle level of stride 8: 32 to 64 pixels
    at_lower, at_upper = {"closed": (1, 1), "open": (K, K), "half_open": (K, 1)}[limits]
    for size, label in ((62, K), (64, at_lower), (66, 1), (126, 1), (128, at_upper), (130, K)):
        box = [(50 - size // 2, 50 - size // 2, size, size, 1)]
        assert assigned(priors, box, range_limits=limits) == [label], size


@pytest.mark.parametrize(
    ("limits", "levels"), [("closed", [0, 1]), ("open", []), ("half_open", [0])]
)
def test_a_box_exactly_at_the_limit_between_two_levels(
    limits: RangeLimits, levels: list[int]
) -> None:
    c = torch.full((3, 2), 70.0)  # the same place on three levels, of strides 8, 16 and 32
    priors = Priors(torch.cat((c - 4, c + 4), dim=1), torch.tensor([8.0, 16, 32]), (1, 1, 1))
    labels, _ = assign_fcos(priors, target([(6, 6, 128, 128, 1)]), K, range_limits=limits)
    assert (labels < K).nonzero().flatten().tolist() == levels  # 64 pixels to every side


def test_the_authors_limits_are_the_default() -> None:
    assert FCOSAssigner.Config().range_limits == "closed"
    assert FCOSAssigner.Config(range_limits="open").build(K).range_limits == "open"


def test_a_location_on_the_border_is_outside() -> None:
    assert assigned(points((10, 40)), [(10, 10, 60, 60, 1)], radius=None) == [K]
    assert assigned(points((10.5, 40)), [(10, 10, 60, 60, 1)], radius=None) == [1]


def test_centre_sampling_keeps_what_is_within_the_radius() -> None:
    priors = points((40, 40), (51.9, 40), (52, 40), (40, 51.9), (52, 52))
    box = [(0, 0, 80, 80, 2)]
    assert assigned(priors, box, radius=1.5) == [2, 2, K, 2, K]
    assert assigned(priors, box, radius=None) == [2, 2, 2, 2, 2]


def test_the_smallest_of_several_objects_wins() -> None:
    boxes = [(0, 0, 90, 90, 0), (5, 5, 70, 70, 1), (0, 0, 100, 80, 2)]
    labels, rows = assign_fcos(points((42, 42)), target(boxes), K)
    assert (labels[1].item(), rows[1].item()) == (1, 1)


def test_a_range_is_from_half_of_its_strides_to_all_of_them() -> None:
    # On a middle level of stride 8: from 16 to 32 pixels with 4 strides.
    for size, label in ((30, K), (34, 1), (62, 1), (66, K)):
        box = [(50 - size // 2, 50 - size // 2, size, size, 1)]
        assert assigned(points((50, 50)), box, range_strides=4.0) == [label], size


@pytest.mark.parametrize(
    "settings",
    [
        {"radius": None},
        {"radius": 0.7},
        {"range_strides": 4.0},
        {"radius": None, "range_strides": 4.0, "range_limits": "open"},
    ],
    ids=str,
)
def test_a_batch_is_its_images_and_empty_images_are_background(
    grid_priors: GridPriors, settings: dict[str, Any]
) -> None:
    settings = dict(settings)
    priors = grid_priors()
    boxes = [(8, 8, 20, 20, 1), (4, 4, 60, 56, 2), (4, 4, 40, 40, 0)]
    targets = (target(boxes), target([]), target(boxes[:1]))
    found = FCOSAssigner.Config(**settings).build(K)(priors, targets)
    for image, own in enumerate(targets):
        labels, rows = assign_fcos(priors, own, K, **settings)
        assert found.labels[image].equal(labels)
        assert found.gt_index[image].equal(rows)
    assert found.positives(K).sum(dim=1)[1] == 0
    # The last setting matters here.
    del settings[list(settings)[-1]]
    assert not found.labels[0].equal(assign_fcos(priors, targets[0], K, **settings)[0])


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="radius = 0"):
        FCOSAssigner.Config(radius=0.0)
