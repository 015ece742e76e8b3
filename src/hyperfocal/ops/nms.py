"""Keeping the best of many scores and many overlapping boxes, the same way every time."""

from __future__ import annotations

import torch
from torch import Tensor


def stable_topk(scores: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` highest scores, best first; among equal scores the lower index wins.

    ``torch.topk`` leaves the order of equal scores open, and with bfloat16 scores there are many.

    Args:
        scores: ``(N,)``.
        k: how many at most.

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
    """Greedy non-maximum suppression: drop boxes that overlap a better one of the same category.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)``.
        labels: ``(N,)`` integers; boxes of different labels never suppress each other. None: all
            boxes compete.
        iou_threshold: a box goes if its IoU with a kept one is greater than this.
        max_kept: cap on what is kept.

    Returns:
        Indices of what is kept, best first; among equal scores the lower index wins.
    """
    import torchvision

    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order].double()
    if labels is not None and boxes.numel():
        # Each category moves to a place of its own, far from the others. In float32 the far
        # coordinates would lose the hundredths of a pixel that decide a close IoU.
        span = boxes.max() - boxes.min() + 1
        boxes = boxes + (labels[order] * span).unsqueeze(1)
    ranks = torch.arange(order.numel(), 0, -1, dtype=boxes.dtype, device=boxes.device)
    kept: Tensor = order[torchvision.ops.nms(boxes, ranks, iou_threshold)]
    return kept[:max_kept]
