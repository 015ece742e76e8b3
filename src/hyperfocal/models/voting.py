"""Score voting: each detection's box becomes a weighted mean of overlapping boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.ops import box_iou

LEAST_IOU = 0.01
"""IoU up to which a box doesn't vote."""


def score_voting(
    boxes: Tensor,
    labels: Tensor,
    voters: Tensor,
    voter_scores: Tensor,
    voter_labels: Tensor,
    spread: float = 0.025,
) -> Tensor:
    """Boxes of detections after voting: ``Σ w_i b_i / Σ w_i`` over the boxes of their category.

    ``w_i = s_i · exp(-(1 - IoU_i)² / spread)`` where the IoU with the detection is above 0.01, else
    0 (Kim and Lee, ECCV 2020, section 3.4). Scores don't change.

    Args:
        boxes: ``(N, 4)`` xyxy, the output of NMS.
        labels: ``(N,)``.
        voters: ``(M, 4)`` xyxy, the input of NMS.
        voter_scores: ``(M,)``.
        voter_labels: ``(M,)``.
        spread: spread of the weights.

    Returns:
        ``(N, 4)``. Empty boxes, which nothing overlaps, don't change.
    """
    iou = box_iou(boxes, voters)
    weight = voter_scores * torch.exp(-(1 - iou).square() / spread)
    weight = weight * ((iou > LEAST_IOU) & (labels[:, None] == voter_labels))
    total = weight.sum(dim=1, keepdim=True)
    moved = (weight @ voters) / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, moved, boxes)
