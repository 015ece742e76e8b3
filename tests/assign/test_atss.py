"""ATSS's assigner against a loop over the paper's algorithm, and cases by hand."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.assign import ATSSAssigner, assign_atss
from hyperfocal.types import ConfigError, Priors, Target

K = 3
GridPriors = Callable[..., Priors]
BOX = st.tuples(*[st.integers(0, 44)] * 2, *[st.integers(2, 60)] * 2, st.integers(0, K - 1))


def target(boxes: list[tuple[int, ...]]) -> Target:
    corners = [[x, y, x + w, y + h] for x, y, w, h, _ in boxes]
    return Target(
        torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        torch.tensor([b[4] for b in boxes], dtype=torch.long),
    )


def overlap(a: list[float], b: list[float]) -> float:
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def reference(priors: Priors, boxes: list[tuple[int, ...]], k: int) -> list[dict[int, float]]:
    """The positives of each box and their IoUs, before an anchor of several boxes is assigned."""
    anchors = priors.boxes.tolist()
    found = []
    for x, y, w, h, _ in boxes:
        gt = [x, y, x + w, y + h]
        candidates, first = [], 0
        for size in priors.level_sizes:
            level = range(first, first + size)
            center = [((a[0] + a[2]) / 2, (a[1] + a[3]) / 2) for a in anchors]
            by_distance = sorted(
                level,
                key=lambda i: (center[i][0] - x - w / 2) ** 2 + (center[i][1] - y - h / 2) ** 2,
            )
            candidates += by_distance[:k]
            first += size
        ious = [overlap(anchors[i], gt) for i in candidates]
        threshold = statistics.fmean(ious) + (statistics.stdev(ious) if len(ious) > 1 else 0)
        found.append(
            {
                i: iou
                for i, iou in zip(candidates, ious, strict=True)
                if iou >= threshold
                and min(
                    center[i][0] - x, center[i][1] - y, x + w - center[i][0], y + h - center[i][1]
                )
                > 0.01
            }
        )
    return found


@pytest.mark.parametrize(("k", "sizes"), [(1, (2.0,)), (4, (2.0,)), (9, (2.0,)), (6, (1.5, 2.0))])
@settings(deadline=None, max_examples=60)
@given(boxes=st.lists(BOX, max_size=4))
def test_same_as_the_algorithm(
    grid_priors: GridPriors, k: int, sizes: tuple[float, ...], boxes: list[tuple[int, ...]]
) -> None:
    priors = grid_priors(sizes)
    labels, rows = assign_atss(priors, target(boxes), K, k)
    own = reference(priors, boxes, k)
    for i, (label, row) in enumerate(zip(labels.tolist(), rows.tolist(), strict=True)):
        claims = [positives.get(i, -1.0) for positives in own]
        best = max(claims, default=-1.0)
        if best < 0:
            assert (label, row) == (K, 0)
        else:
            assert label == boxes[row][4]
            assert claims[row] == pytest.approx(best, abs=1e-6)


def test_by_hand() -> None:
    """IoUs 1, 1/3, 0: mean 4/9, deviation 0.509; only the first reaches the sum."""
    anchors = torch.tensor([[0.0, 0, 8, 8], [4, 0, 12, 8], [8, 0, 16, 8]])
    priors = Priors(anchors, torch.full((3,), 8.0), (3,))
    labels, rows = assign_atss(priors, target([(0, 0, 8, 8, 2)]), K)
    assert labels.tolist() == [2, K, K]
    assert rows.tolist() == [0, 0, 0]


def test_a_centre_outside_the_box_is_never_positive() -> None:
    # The only anchor reaches its own mean, but its centre is on the border.
    priors = Priors(torch.tensor([[0.0, 0, 8, 8]]), torch.full((1,), 8.0), (1,))
    assert assign_atss(priors, target([(4, 0, 8, 8, 1)]), K)[0].tolist() == [K]
    assert assign_atss(priors, target([(3, 0, 8, 8, 1)]), K)[0].tolist() == [1]


def test_of_two_boxes_the_one_with_more_overlap_wins() -> None:
    priors = Priors(torch.tensor([[0.0, 0, 8, 8]]), torch.full((1,), 8.0), (1,))
    labels, rows = assign_atss(priors, target([(0, 0, 8, 6, 0), (0, 0, 8, 7, 1)]), K)
    assert (labels.tolist(), rows.tolist()) == ([1], [1])


def test_of_equally_near_anchors_the_first_count(grid_priors: GridPriors) -> None:
    # The box's centre is a corner of four cells; one candidate per level.
    labels, _ = assign_atss(grid_priors((2.0,)), target([(10, 10, 12, 12, 1)]), K, top_k=1)
    positive = (labels < K).nonzero().flatten().tolist()
    assert positive == [9]  # row 1, column 1 of the first level, before (1, 2), (2, 1), (2, 2)


@pytest.mark.parametrize("top_k", [2, 9])
def test_a_batch_is_its_images_and_empty_images_are_background(
    grid_priors: GridPriors, top_k: int
) -> None:
    priors = grid_priors((2.0,))
    several = [(8, 8, 20, 20, 1), (30, 20, 30, 40, 2)]
    targets = (target(several), target([]), target(several[:1]))
    found = ATSSAssigner.Config(top_k=top_k).build(K)(priors, targets)
    for image, own in enumerate(targets):
        labels, rows = assign_atss(priors, own, K, top_k)
        assert found.labels[image].equal(labels)
        assert found.gt_index[image].equal(rows)
    counts = found.positives(K).sum(dim=1)
    assert counts[0] > counts[2] > counts[1] == 0
    assert set(found.labels[0].tolist()) == {1, 2, K}


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="top_k = 0"):
        ATSSAssigner.Config(top_k=0)
