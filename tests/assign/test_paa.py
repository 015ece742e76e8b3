"""PAA's split against a loop with its own EM, and cases by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.assign import CornerCases, PAAAssigner, fit_mixtures, split_by_cost
from hyperfocal.types import Assignment, Priors, Target

K = 3


def normal(x: float, mean: float, variance: float) -> float:
    return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def slow_em(xs: list[float]) -> tuple[list[float], list[float], list[float]]:
    """EM in probabilities, one number at a time."""
    w, m, v = [0.5, 0.5], [min(xs), max(xs)], [1.0, 1.0]
    before = -math.inf
    for _ in range(100):
        joint = [[w[k] * normal(x, m[k], v[k]) for k in (0, 1)] for x in xs]
        likelihood = sum(math.log(a + b) for a, b in joint) / len(xs)
        mass = [sum(j[k] / sum(j) for j in joint) + 2.2e-15 for k in (0, 1)]
        for k in (0, 1):
            share = [j[k] / sum(j) for j in joint]
            m[k] = sum(s * x for s, x in zip(share, xs, strict=True)) / mass[k]
            v[k] = sum(s * (x - m[k]) ** 2 for s, x in zip(share, xs, strict=True)) / mass[k]
            v[k] += 1e-6
            w[k] = mass[k] / sum(mass)
        if abs(likelihood - before) < 1e-3:
            break
        before = likelihood
    return w, m, v


def slow_split(
    cost: list[float], box: list[int], level: list[int], k: int, rule: CornerCases
) -> dict[int, list[set[int]]]:
    """The positives of each box; several sets if rounding decides which score is the best.

    Two candidates alone in their component lie on either side of its mean, equally likely but for
    the last digits.
    """
    positive: dict[int, list[set[int]]] = {}
    for b in set(box):
        kept: list[int] = []
        for lv in set(level):
            own = [i for i in range(len(cost)) if box[i] == b and level[i] == lv]
            kept += sorted(own, key=lambda i: cost[i])[:k]
        kept.sort(key=lambda i: cost[i])
        all_or_none = [set(kept) if rule == "official" else set()]
        if len(kept) == 1:
            positive[b] = all_or_none
            continue
        w, m, v = slow_em([cost[i] for i in kept])
        joint = [[w[c] * normal(cost[i], m[c], v[c]) for c in (0, 1)] for i in kept]
        cheap = [a >= b for a, b in joint]
        if not any(cheap):
            positive[b] = all_or_none
            continue
        best = max(sum(j) for j, c in zip(joint, cheap, strict=True) if c)
        lasts = [i for i, j in enumerate(joint) if cheap[i] and sum(j) >= best * (1 - 1e-9)]
        positive[b] = [
            {kept[i] for i in range(last + 1) if rule == "official" or cheap[i]} for last in lasts
        ]
    return positive


@st.composite
def costs(draw: st.DrawFn) -> tuple[list[float], list[int], list[int]]:
    n = draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    # The power clusters the costs, so that one component is often wider than the other.
    power = draw(st.sampled_from([0.3, 1.0, 4.0]))
    cost = (torch.rand(n, generator=generator, dtype=torch.float64) ** power * 3).tolist()
    box = torch.randint(0, 4, (n,), generator=generator).tolist()
    level = torch.randint(0, 3, (n,), generator=generator).tolist()
    return cost, box, level


@pytest.mark.parametrize("rule", ["official", "mmdetection"])
@settings(deadline=None, max_examples=100)
@given(case=costs(), k=st.sampled_from([2, 9]))
def test_same_as_the_slow_split(
    rule: CornerCases, case: tuple[list[float], list[int], list[int]], k: int
) -> None:
    cost, box, level = case
    found = split_by_cost(
        torch.tensor(cost, dtype=torch.float64), torch.tensor(box), torch.tensor(level), 5, k, rule
    )
    for b, allowed in slow_split(cost, box, level, k, rule).items():
        assert {i for i in found.nonzero().flatten().tolist() if box[i] == b} in allowed


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 45))
def test_mixtures_are_the_slow_ones_and_rows_dont_meet(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(3, n, generator=generator, dtype=torch.float64) * 4
    valid = torch.arange(n) < torch.tensor([n, max(n // 2, 1), 1])[:, None]
    fitted = fit_mixtures(values.where(valid, 1e6), valid)
    for row in range(3):
        w, m, v = slow_em(values[row][valid[row]].tolist())
        for ours, slow in ((fitted.weights, w), (fitted.means, m), (fitted.variances, v)):
            assert ours[row].tolist() == pytest.approx(slow, rel=1e-6, abs=1e-9)


def test_two_clear_groups_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(60, generator=generator, dtype=torch.float64) * 0.1 + 0.5
    high = torch.randn(140, generator=generator, dtype=torch.float64) * 0.2 + 3
    values = torch.cat((low, high))[None]
    fitted = fit_mixtures(values, torch.ones_like(values, dtype=torch.bool))
    assert fitted.means[0].tolist() == pytest.approx([0.5, 3], abs=0.06)
    assert fitted.weights[0].tolist() == pytest.approx([0.3, 0.7], abs=0.01)
    assert fitted.variances[0].sqrt().tolist() == pytest.approx([0.1, 0.2], abs=0.04)
    cheap = fitted.log_joint(values)[0].argmax(dim=1) == 0
    assert cheap.tolist() == [True] * 60 + [False] * 140


def split(cost: list[float], **settings: object) -> list[bool]:
    zeros = torch.zeros(len(cost), dtype=torch.long)
    return split_by_cost(torch.tensor(cost), zeros, zeros, 1, **settings).tolist()


def test_positives_are_the_cheap_ones_up_to_the_densest() -> None:
    # Costs 0.0 to 0.2 around 0.1 and a far group: the cheap component peaks at 0.1.
    chosen = split([5.0, 0.0, 0.1, 5.1, 0.2, 4.9, 0.1])
    assert chosen == [False, True, True, False, False, False, False] or chosen == [
        False, True, False, False, False, False, True,
    ]  # fmt: skip


def test_the_authors_take_every_candidate_up_to_the_peak() -> None:
    # The component that started at the greatest cost is the wide one: it holds the cheapest
    # candidate and the dearest. The other one peaks at its third candidate, the fourth of all.
    cost = [0.41, 0.89, 0.91, 0.95, 1.09, 1.72]
    values = torch.tensor([cost], dtype=torch.float64)
    joint = fit_mixtures(values, torch.ones_like(values, dtype=torch.bool)).log_joint(values)[0]
    assert joint.argmax(dim=1).tolist() == [1, 0, 0, 0, 0, 1]
    assert split(cost) == [True, True, True, True, False, False]
    assert split(cost[::-1]) == [False, False, True, True, True, True]
    assert split(cost, corner_cases="mmdetection") == [False, True, True, True, False, False]


def test_corner_cases() -> None:
    assert split([1.0]) == [True]
    assert split([1.0], corner_cases="mmdetection") == [False]
    assert split([]) == []
    assert split([1.0, 1.0, 1.0])[0] is True  # equal costs: the components are the same


@pytest.mark.parametrize("rule", ["official", "mmdetection"])
def test_the_assigner_chooses_by_its_rule(rule: CornerCases) -> None:
    cost = torch.tensor([0.41, 0.89, 0.91, 0.95, 1.09, 1.72])  # as above
    priors = Priors(torch.tensor([[0.0, 0, 8, 8]]).repeat(6, 1), torch.full((6,), 8.0), (6,))
    candidates = Assignment(torch.full((1, 6), 2), torch.zeros(1, 6, dtype=torch.long))
    assigner = PAAAssigner.Config(corner_cases=rule).build(K)
    chosen = assigner.choose(candidates, cost, priors)
    assert chosen.positives(K)[0].tolist() == split(cost.tolist(), corner_cases=rule)


def test_only_the_cheapest_of_a_level_are_looked_at() -> None:
    cost = [0.1, 0.2, 0.3, 0.4, 9.0]
    assert split(cost, top_k=1) == [True, False, False, False, False]


def test_mmdetections_candidates_are_those_of_its_own_assigner() -> None:
    # The first anchor overlaps the near box at 0.4, and is the far box's best one at 0.1.
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4]])
    priors = Priors(anchors, torch.full((2,), 8.0), (2,))
    target = Target(torch.tensor([[0.0, 0, 10, 4], [0, 9, 10, 19]]), torch.tensor([0, 1]))
    official = PAAAssigner.Config().build(K)(priors, (target,))
    theirs = PAAAssigner.Config(corner_cases="mmdetection").build(K)(priors, (target,))
    assert official.labels.tolist() == [[0, 0]]
    assert theirs.labels.tolist() == [[1, 0]]


def test_candidates_then_choice(grid_priors: Callable[..., Priors]) -> None:
    priors = grid_priors((2.0,))
    target = Target(torch.tensor([[8.0, 8, 40, 40], [30, 30, 60, 60]]), torch.tensor([2, 1]))
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assigner = PAAAssigner.Config().build(K)
    candidates = assigner(priors, (target, empty, target))
    positive = candidates.positives(K)
    assert positive[0].sum() > 6
    assert torch.equal(positive[0], positive[2])
    cost = torch.rand(int(positive.sum()), generator=torch.Generator().manual_seed(0))
    chosen = assigner.choose(candidates, cost, priors)
    kept = chosen.positives(K)
    # As the slow split of each image's objects selects them.
    level = torch.repeat_interleave(torch.arange(3), torch.tensor(priors.level_sizes))
    image, prior = positive.nonzero(as_tuple=True)
    box = 2 * image + candidates.gt_index[image, prior]
    allowed = slow_split(cost.tolist(), box.tolist(), level[prior].tolist(), 9, "official")
    for b, sets in allowed.items():
        assert {i for i in range(len(cost)) if box[i] == b and kept[image[i], prior[i]]} in sets
    assert 0 < kept.sum() < positive.sum()
    assert (kept <= positive).all()
    for name in ("labels", "gt_index"):
        assert getattr(chosen, name)[kept].equal(getattr(candidates, name)[kept])
    assert (chosen.labels[~kept] == K).all()
    assert (chosen.gt_index[~kept] == 0).all()
    for row in (0, 1):
        for image in (0, 2):  # every object keeps its cheapest candidate
            own = positive[image] & (candidates.gt_index[image] == row)
            everywhere = torch.full(positive.shape, math.inf)
            everywhere[positive] = cost
            assert kept[image, everywhere[image].where(own, math.inf).argmin()]
    assert kept[1].sum() == 0
    few = PAAAssigner.Config(top_k=1, candidate_iou=0.3).build(K)
    fewer = few(priors, (target, empty, target))
    assert fewer.positives(K).sum() < positive.sum()
    assert few.choose(candidates, cost, priors).positives(K).sum() <= 4 * len(priors.level_sizes)
    none = assigner(priors, (empty,))
    assert assigner.choose(none, torch.zeros(0), priors).labels.unique().tolist() == [K]
