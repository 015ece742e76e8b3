import pytest
import torch
import torchvision

from hyperfocal.ops import box_area, box_iou, clip_boxes, has_area, paired_iou, rescale_boxes


def random_boxes(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 100
    return torch.cat((corner, corner + torch.rand(n, 2, generator=generator) * 60), dim=1)


def test_iou_is_torchvisions() -> None:
    a, b = random_boxes(7), random_boxes(11, seed=1)
    torch.testing.assert_close(box_iou(a, b), torchvision.ops.box_iou(a, b), rtol=0, atol=0)


def test_iou_of_hand_cases() -> None:
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [20, 20, 30, 30]])
    expected = torch.tensor([[1, 1 / 3, 0, 0]])
    torch.testing.assert_close(box_iou(a, b), expected)


def test_iou_of_empty_boxes_is_zero_not_nan() -> None:
    point = torch.tensor([[5.0, 5, 5, 5]])
    assert box_iou(point, point).item() == 0
    assert box_iou(point, torch.tensor([[0.0, 0, 10, 10]])).item() == 0
    assert box_iou(torch.zeros(0, 4), random_boxes(3)).shape == (0, 3)


def test_iou_doesnt_depend_on_the_unit() -> None:
    """Boxes in fractions of a large image have areas below any careless epsilon."""
    a, b = random_boxes(5), random_boxes(5, seed=1)
    torch.testing.assert_close(box_iou(a * 1e-6, b * 1e-6), box_iou(a, b), rtol=1e-4, atol=1e-6)


def test_paired_iou_is_the_diagonal() -> None:
    a, b = random_boxes(9), random_boxes(9, seed=1)
    torch.testing.assert_close(paired_iou(a, b), box_iou(a, b).diagonal())
    point = torch.tensor([5.0, 5, 5, 5])
    assert paired_iou(point, point).item() == 0


def test_area() -> None:
    boxes = torch.tensor([[1.0, 2, 4, 6], [4, 6, 1, 2], [1, 2, 4, 1]])
    assert box_area(boxes).tolist() == [12, 0, 0]


def test_a_box_has_area_unless_it_is_empty_or_reversed() -> None:
    boxes = torch.tensor([[1.0, 2, 4, 6], [1, 2, 1, 6], [1, 2, 4, 2], [4, 2, 1, 6], [0, 0, 0, 0]])
    assert has_area(boxes).tolist() == [True, False, False, False, False]
    assert has_area(torch.tensor([[torch.nan, 0, 1, 1]])).all()  # reported elsewhere, not dropped


def test_clip_and_rescale() -> None:
    boxes = torch.tensor([[-5.0, -1, 30, 12], [40, 50, 60, 70]])
    assert clip_boxes(boxes, (10, 20)).tolist() == [[0, 0, 20, 10], [20, 10, 20, 10]]
    there = rescale_boxes(boxes, (10, 20), (30, 10))
    assert there[0].tolist() == [-2.5, -3, 15, 36]
    torch.testing.assert_close(rescale_boxes(there, (30, 10), (10, 20)), boxes)


@pytest.mark.parametrize("hw", [(10, 20), (1, 1)])
def test_clipping_is_torchvisions_and_twice_changes_nothing(hw: tuple[int, int]) -> None:
    boxes = random_boxes(50) - 40
    once = clip_boxes(boxes, hw)
    assert torch.equal(once, torchvision.ops.clip_boxes_to_image(boxes, hw))
    assert torch.equal(clip_boxes(once, hw), once)


def test_iou_of_half_precision_boxes_of_any_size() -> None:
    boxes = torch.tensor([[0.0, 0, 400, 400], [0, 0, 400, 800]])
    for dtype in (torch.float16, torch.bfloat16):
        half = boxes.to(dtype)
        torch.testing.assert_close(box_iou(half, half), box_iou(boxes, boxes))
        torch.testing.assert_close(paired_iou(half, half), torch.ones(2))
