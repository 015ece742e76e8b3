"""SimOTA against loops over candidates and boxes, and cases by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hyperfocal.assign import SimOTAAssigner, near_centers, simota
from hyperfocal.models import AnchorGenerator
from hyperfocal.types import Priors, Target

K = 3


def grid(hw: tuple[int, int] = (64, 96)) -> Priors:
    config = AnchorGenerator.Config((1.0,), 1, (1.0,), center_offset=0.5)
    return config.build((8, 16, 32))(hw, torch.device("cpu"))


def iou_of(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union


def bce(score: float, wanted: float) -> float:
    on = max(math.log(score), -100.0) if score > 0 else -100.0
    off = max(math.log(1 - score), -100.0) if score < 1 else -100.0
    return -(wanted * on + (1 - wanted) * off)


def slow_simota(priors: Priors, boxes: Tensor, scores: Tensor, target: Target) -> dict[int, int]:
    """The box of each positive prior, from the predictions at all priors of one image."""
    gts, labels = target.boxes.tolist(), target.labels.tolist()
    near: dict[int, list[bool]] = {}
    for i, (x, y) in enumerate(priors.centers.tolist()):
        reach = 1.5 * float(priors.strides[i])
        inside = [
            abs(x - (g[0] + g[2]) / 2) < reach and abs(y - (g[1] + g[3]) / 2) < reach for g in gts
        ]
        if any(inside):
            near[i] = inside
    cost = {
        (g, i): sum(bce(s, float(j == labels[g])) for j, s in enumerate(scores[i].tolist()))
        - 3 * math.log(iou_of(gts[g], boxes[i].tolist()) + 1e-8)
        + (0 if near[i][g] else 1e6)
        for g in range(len(gts))
        for i in near
    }
    owners: dict[int, list[int]] = {}
    for g in range(len(gts)):
        ious = sorted((iou_of(gts[g], boxes[i].tolist()) for i in near), reverse=True)[:10]
        for i in sorted(near, key=lambda i: cost[g, i])[: max(int(sum(ious)), 1)]:
            owners.setdefault(i, []).append(g)
    return {
        i: own[0] if len(own) == 1 else min(range(len(gts)), key=lambda g: cost[g, i])
        for i, own in owners.items()
    }


def random_target(generator: torch.Generator, number: int, hw: tuple[int, int]) -> Target:
    size = torch.rand(number, 2, generator=generator) * 60 + 2  # some smaller than a stride
    limit = torch.tensor([hw[1], hw[0]])
    first = torch.rand(number, 2, generator=generator) * (limit - size).clamp(min=0)
    labels = torch.randint(K, (number,), generator=generator)
    return Target(torch.cat((first, torch.minimum(first + size, limit)), dim=1), labels)


def assign(priors: Priors, boxes: Tensor, scores: Tensor, target: Target) -> dict[int, int]:
    assigner = SimOTAAssigner(K)
    candidates = assigner(priors, (target,))
    where = candidates.positives(K)[0]
    found = assigner.choose(candidates, boxes[where], scores[where], priors, (target,))
    positive = found.positives(K)[0]
    rows = found.gt_index[0]
    assert torch.equal(found.labels[0][positive], target.labels[rows[positive]])
    assert (found.labels[0][~positive] == K).all()
    assert (rows[~positive] == 0).all()
    return {int(i): int(rows[i]) for i in positive.nonzero()}


@pytest.mark.parametrize("number", [1, 2, 6, 25])
@pytest.mark.parametrize("seed", range(4))
def test_assignment_is_that_of_the_loops(seed: int, number: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    priors = grid()
    target = random_target(generator, number, (64, 96))
    scale = (torch.rand(len(priors.boxes), 2, generator=generator) * 6 + 0.5) * priors.strides[
        :, None
    ]
    shift = torch.randn(len(priors.boxes), 2, generator=generator) * priors.strides[:, None] / 2
    center = priors.centers + shift
    boxes = torch.cat((center - scale / 2, center + scale / 2), dim=1)
    scores = torch.rand(len(priors.boxes), K, generator=generator)
    assert assign(priors, boxes, scores, target) == slow_simota(priors, boxes, scores, target)


def test_no_boxes_give_background() -> None:
    priors, assigner = grid(), SimOTAAssigner(K)
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    one = Target(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([2]))
    candidates = assigner(priors, (nothing, one))
    assert (candidates.labels[0] == K).all()
    number = int(candidates.positives(K).sum())
    found = assigner.choose(
        candidates, one.boxes.expand(number, 4), torch.rand(number, K), priors, (nothing, one)
    )
    assert (found.labels[0] == K).all()
    assert (found.labels[1] == 2).sum() == 10  # ten perfect boxes


def test_every_object_has_a_candidate_however_small() -> None:
    priors = grid((32, 32))
    for corner in (0.0, 15.9, 31.99):
        box = torch.tensor([[corner, corner, corner + 0.01, corner + 0.01]])
        assert near_centers(priors, box, 1.5).any()
        target = Target(box, torch.tensor([1]))
        zero = torch.zeros(len(priors.boxes), 4)
        assert len(assign(priors, zero, torch.rand(len(zero), K), target)) == 1


def test_ties_go_to_the_first_candidate_and_the_first_box() -> None:
    target = Target(torch.tensor([[0.0, 0, 10, 10]] * 2), torch.tensor([0, 0]))
    near = torch.ones(3, 2, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0, 4, 4]] * 3)
    row = simota(near, boxes, torch.full((3, K), 0.5), target)
    assert row.tolist() == [0, -1, -1]


def test_a_prior_goes_to_the_box_with_the_lower_cost() -> None:
    target = Target(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12]]), torch.tensor([0, 1]))
    near = torch.ones(1, 2, dtype=torch.bool)
    for label in (0, 1):
        scores = torch.full((1, K), 0.1)
        scores[0, label] = 0.9
        row = simota(near, torch.tensor([[0.0, 0, 10, 11]]), scores, target)
        assert row.tolist() == [label]


def test_saturated_scores_and_diverged_boxes_are_assigned() -> None:
    target = Target(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0]))
    near = torch.ones(2, 1, dtype=torch.bool)
    scores = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    assert simota(near, boxes, scores, target).tolist() == [0, 0]
    assert (simota(near, boxes * torch.nan, scores, target) >= 0).sum() == 1


def test_ignored_priors_stay_ignored() -> None:
    priors, assigner = grid(), SimOTAAssigner(K)
    target = Target(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([2]))
    candidates = assigner(priors, (target,))
    candidates.labels[:, ::3] = -1
    number = int(candidates.positives(K).sum())
    found = assigner.choose(
        candidates, target.boxes.expand(number, 4), torch.rand(number, K), priors, (target,)
    )
    assert (found.labels[:, ::3] == -1).all()
    assert found.positives(K).any()
