"""Deterministic top-k and non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor


def stable_topk(scores: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` highest scores, best first; ties go to the lower index.

    ``torch.topk`` doesn't define the order of equal scores, of which bfloat16 scores have many.

    Args:
        scores: ``(N,)``.
        k: maximum number.

    Returns:
        ``(min(k, N),)`` int64.
    """
    if k <= 0:
        return scores.new_zeros(0, dtype=torch.long)
    if scores.numel() <= k:
        return scores.argsort(descending=True, stable=True)
    least = scores.topk(k, sorted=False).values.min()
    above = (scores > least).nonzero().squeeze(1)
    tied = (scores == least).nonzero().squeeze(1)[: k - above.numel()]
    kept = torch.cat((above, tied))
    return kept[scores[kept].argsort(descending=True, stable=True)]


def nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    iou_threshold: float,
    max_kept: int | None = None,
) -> Tensor:
    """Greedy non-maximum suppression of boxes that overlap a better one of the same category.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)``.
        labels: ``(N,)`` integers; boxes of different labels never suppress each other. None:
            suppress across categories.
        iou_threshold: a box is dropped if its IoU with a kept one is greater than this.
        max_kept: maximum number of boxes kept.

    Returns:
        Indices of the boxes kept, best first; ties go to the lower index.
    """
    import torchvision

    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order].double()
    if labels is not None and boxes.numel():
        # Boxes are offset by category, so that those of different categories don't overlap. In
        # float32 large coordinates would lose the precision that decides close IoUs.
        span = boxes.max() - boxes.min() + 1
        boxes = boxes + (labels[order] * span).unsqueeze(1)
    ranks = torch.arange(order.numel(), 0, -1, dtype=boxes.dtype, device=boxes.device)
    kept: Tensor = order[torchvision.ops.nms(boxes, ranks, iou_threshold)]
    return kept[:max_kept]
