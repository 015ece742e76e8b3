"""Selection of hard examples."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from hyperfocal.losses import hard_negatives, online_hard_examples
from hyperfocal.types import ConfigError, DataError


def separate(n: int) -> torch.Tensor:
    """Boxes that don't touch."""
    left = torch.arange(n).float() * 10
    return torch.stack([left, torch.zeros(n), left + 5, torch.full((n,), 5.0)], -1)


def test_the_hardest_are_kept_and_ignored_ones_never():
    losses = torch.tensor([1.0, 9, 3, 7, 5, 100])
    labels = torch.tensor([2, 2, 0, 2, 2, -1])
    kept = online_hard_examples(losses, labels, separate(6), 2, keep=3)
    assert kept.tolist() == [False, True, False, True, True, False]


def test_suppression_thins_out_near_duplicates():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [50, 50, 60, 60]])
    losses, labels = torch.tensor([1.0, 2, 3, 0.5]), torch.zeros(4).long()
    kept = online_hard_examples(losses, labels, boxes, 1, keep=4, nms_threshold=0.7)
    assert kept.tolist() == [False, True, True, True]
    kept = online_hard_examples(losses, labels, boxes, 1, keep=4, nms_threshold=0.5)
    assert kept.tolist() == [True, False, True, True]  # 0 and 2 overlap by exactly 0.5
    assert online_hard_examples(losses, labels, boxes, 1, keep=4, nms_threshold=1).all()


@pytest.mark.parametrize(("positives", "want"), [(2, (2, 6)), (30, (8, 24)), (0, (0, 0))])
def test_one_to_three(positives, want):
    n = 100
    losses = torch.rand(n, generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(n) < positives, 0, 1)
    kept = online_hard_examples(losses, labels, separate(n), 1, keep=32, one_to_three=True)
    assert (int(kept[:positives].sum()), int(kept[positives:].sum())) == want
    hardest = losses[positives:][kept[positives:]]
    left = losses[positives:][~kept[positives:]]
    assert not len(hardest) or hardest.min() >= left.max()


@pytest.mark.parametrize("one_to_three", [False, True])
@pytest.mark.parametrize("keep", [4, 5, 40, 500])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_ending_early_changes_nothing(threshold: float, keep: int, one_to_three: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for anchors in (1, 30, 400):
        corners = torch.rand(anchors, 2, generator=generator) * 60
        sides = 5 + torch.rand(anchors, 2, generator=generator) * 30
        boxes = torch.cat([corners, corners + sides], 1)
        losses = torch.rand(anchors, generator=generator)
        labels = torch.randint(-1, 2, (anchors,), generator=generator)
        labels[torch.rand(anchors, generator=generator) < 0.7] = 1
        kept = online_hard_examples(
            losses, labels, boxes, 1, keep=keep, nms_threshold=threshold, one_to_three=one_to_three
        )
        assert kept.nonzero().flatten().tolist() == slowly(
            losses, labels, boxes, keep, threshold, one_to_three
        )


def slowly(losses, labels, boxes, keep, threshold, one_to_three) -> list[int]:
    """All anchors through the suppression, one at a time."""
    near = (box_iou(boxes, boxes) > threshold).tolist()
    alive: list[int] = []
    for n in losses.argsort(descending=True).tolist():
        if labels[n] >= 0 and not any(near[n][k] for k in alive):
            alive.append(n)
    if one_to_three:
        positives = [n for n in alive if labels[n] == 0][: keep // 4]
        negatives = [n for n in alive if labels[n] == 1][: 3 * len(positives)]
        return sorted(positives + negatives)
    return sorted(alive[:keep])


def test_an_easy_positive_is_found() -> None:
    n = 50
    losses, labels = torch.arange(n).float(), torch.ones(n).long()
    labels[0] = 0  # the easiest
    kept = online_hard_examples(losses, labels, separate(n), 1, keep=8, one_to_three=True)
    assert kept.nonzero().flatten().tolist() == [0, 47, 48, 49]


def test_hard_negatives_are_three_for_each_positive():
    losses = torch.tensor([0.1, 5, 4, 3, 2, 9, 1, 7])
    labels = torch.tensor([0, 2, 2, 2, 2, -1, 2, 1])  # two positives, five negatives, one ignored
    kept = hard_negatives(losses, labels, 2, ratio=1)
    assert kept.nonzero().flatten().tolist() == [0, 1, 2, 7]
    assert hard_negatives(losses, labels, 2).tolist() == (labels >= 0).tolist()  # there are but 5
    assert not hard_negatives(losses, torch.full((8,), 2), 2).any()
    assert hard_negatives(torch.zeros(0), torch.zeros(0).long(), 2).shape == (0,)
    with pytest.raises(ConfigError, match="ratio"):
        hard_negatives(losses, labels, 2, ratio=0)
    with pytest.raises(DataError, match=r"\(8,\)"):
        hard_negatives(losses, labels[:3], 2)


def test_empty_and_bad_input():
    none = torch.zeros(0)
    assert online_hard_examples(none, none.long(), torch.zeros(0, 4), 1).shape == (0,)
    with pytest.raises(DataError, match=r"\(3,\)"):
        online_hard_examples(torch.zeros(3), torch.zeros(2).long(), separate(3), 1)
    with pytest.raises(ConfigError, match="keep = 3, but it must be at least 4"):
        online_hard_examples(
            torch.zeros(3), torch.zeros(3).long(), separate(3), 1, keep=3, one_to_three=True
        )
    with pytest.raises(ConfigError, match="keep = 0"):
        online_hard_examples(torch.zeros(3), torch.zeros(3).long(), separate(3), 1, keep=0)
    with pytest.raises(ConfigError, match="nms_threshold"):
        online_hard_examples(torch.zeros(3), torch.zeros(3).long(), separate(3), 1, nms_threshold=2)
