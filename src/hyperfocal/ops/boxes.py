"""Boxes as ``(..., 4)`` tensors of float ``(x1, y1, x2, y2)`` pixels, half-open (no "+1 pixel")."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.ops.constants import constant_like


def box_area(boxes: Tensor) -> Tensor:
    """Areas ``(...)`` in px² of boxes ``(..., 4)``; 0 where width or height is negative."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def has_area(boxes: Tensor) -> Tensor:
    """``(...)`` bool, whether boxes ``(..., 4)`` aren't empty; True for those with a NaN."""
    return ~(boxes[..., 2:] <= boxes[..., :2]).any(dim=-1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair.

    Args:
        a: ``(N, 4)`` xyxy.
        b: ``(M, 4)`` xyxy, in the same frame.

    Returns:
        ``(N, M)`` in [0, 1], float32 or float64; 0 where both boxes are empty. Fastest if ``b`` is
        the longer of the two.
    """
    a, b = _wide(a), _wide(b)
    ax1, ay1, ax2, ay2 = a.unsqueeze(-1).unbind(-2)
    bx1, by1, bx2, by2 = b.t().contiguous().unbind(0)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp_(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp_(min=0)
    intersection = width * height
    union = box_area(a)[:, None] + box_area(b) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise intersection over union ``(...)`` of boxes ``(..., 4)``.

    Computed and returned in float32, or in float64 for float64 input.
    """
    a, b = _wide(a), _wide(b)
    top_left = torch.maximum(a[..., :2], b[..., :2])
    bottom_right = torch.minimum(a[..., 2:], b[..., 2:])
    intersection = box_area(torch.cat((top_left, bottom_right), dim=-1))
    union = box_area(a) + box_area(b) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def _wide(boxes: Tensor) -> Tensor:
    """Boxes in float32 or float64, because areas overflow float16."""
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes


def clip_boxes(boxes: Tensor, hw: tuple[int, int]) -> Tensor:
    """Boxes ``(..., 4)`` clipped to an image of ``hw`` = (height, width) pixels."""
    height, width = hw
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def rescale_boxes(boxes: Tensor, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    """Boxes ``(..., 4)`` rescaled from an image of size ``from_hw`` to size ``to_hw``."""
    sy, sx = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    return boxes * constant_like((sx, sy, sx, sy), boxes)
