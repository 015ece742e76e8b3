import pytest
import torch
import torchvision

from hyperfocal.ops import box_iou, nms, stable_topk


def crowd(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 300
    size = 20 + torch.rand(n, 2, generator=generator) * 100
    scores = torch.rand(n, generator=generator)
    labels = torch.randint(0, 5, (n,), generator=generator)
    return torch.cat((corner, corner + size), dim=1), scores, labels


def greedy(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, iou: float
) -> list[int]:
    """The definition, one box at a time."""
    overlap = box_iou(boxes.double(), boxes.double())
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i)):
        if all(labels[i] != labels[j] or overlap[i, j] <= iou for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("left", [0.0, -250.0])  # boxes may leave the image on any side
@pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 1.0])
def test_same_as_the_definition(iou: float, left: float) -> None:
    boxes, scores, labels = crowd(120)
    boxes += left
    assert nms(boxes, scores, labels, iou).tolist() == greedy(boxes, scores, labels, iou)


def test_same_as_torchvisions_per_category() -> None:
    boxes, scores, labels = crowd(3000)
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.5)
    assert torch.equal(nms(boxes, scores, labels, 0.5), expected)


def test_far_categories_keep_close_calls_exact() -> None:
    """Hundreds of categories, moved apart in float32, would round coordinates to 1/64 px."""
    pair = torch.tensor([[0.0, 0, 1000, 1], [499.999, 0, 1499.999, 1]])
    iou = box_iou(pair.double(), pair.double())[0, 1].item()
    boxes, labels = pair.repeat(1200, 1), torch.arange(1200).repeat_interleave(2)
    scores = torch.ones(2400)
    assert len(nms(boxes, scores, labels, iou + 1e-7)) == 2400
    assert len(nms(boxes, scores, labels, iou - 1e-7)) == 1200


def test_ties_go_to_the_first_and_the_cap_keeps_the_best() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1)
    assert nms(boxes, torch.ones(4), torch.zeros(4, dtype=torch.long), 0.5).tolist() == [0]
    scores = torch.tensor([0.2, 0.9, 0.9, 0.5])
    assert nms(boxes, scores, torch.arange(4), 0.5, max_kept=3).tolist() == [1, 2, 3]
    assert nms(boxes, scores, None, 0.5).tolist() == [1]


def test_nothing_in_nothing_out() -> None:
    empty = torch.zeros(0)
    assert nms(torch.zeros(0, 4), empty, empty.long(), 0.5, max_kept=10).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [0, 1, 7, 50, 200, 500])
def test_topk_is_a_stable_sort_cut_off(dtype: torch.dtype, k: int) -> None:
    scores = torch.randint(0, 12, (200,)).to(dtype)  # many ties
    expected = sorted(range(200), key=lambda i: (-scores[i].item(), i))[:k]
    assert stable_topk(scores, k).tolist() == expected
