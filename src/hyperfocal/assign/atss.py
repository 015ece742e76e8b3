"""ATSS: assignment with an IoU threshold per object, from the anchors near its centre.

(Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive
Training Sample Selection", CVPR 2020, algorithm 1.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.assign.roles import Assigner, AssignerConfig
from hyperfocal.ops import paired_iou
from hyperfocal.types import Assignment, Priors, Target

INSIDE = 0.01
"""Minimum distance in pixels, exclusive, of a positive's centre from each side of its box."""


def assign_atss(
    priors: Priors, target: Target, num_classes: int, top_k: int = 9
) -> tuple[Tensor, Tensor]:
    """Assign the anchors of one image.

    A box's candidates are the ``top_k`` anchors of each level (or all, if there are fewer) whose
    centres are nearest to that of the box; ties go to the first. Candidates are positive if their
    IoU is at least the mean plus the (unbiased) standard deviation of the candidates' IoUs and
    their centre is in the box. An anchor that is positive for several boxes is assigned to the one
    with the highest IoU.

    Args:
        priors: the anchors.
        target: the image's boxes.
        num_classes: K, the background's label.
        top_k: candidates per level.

    Returns:
        Labels ``(A,)`` int64 (nothing is ignored) and the row of the target that each positive is
        assigned to, ``(A,)`` int64, 0 elsewhere.
    """
    anchors, boxes = priors.boxes, target.boxes
    background = torch.full((len(anchors),), num_classes, device=anchors.device)
    if not target.labels.numel():
        return background, torch.zeros_like(background)
    box_centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (box_centers[:, None] - priors.centers).square().sum(dim=-1)
    nearest = [
        _least(level, top_k) for level in torch.split(distance, list(priors.level_sizes), dim=1)
    ]
    row, anchor = torch.cat(nearest, dim=1).nonzero(as_tuple=True)
    iou = paired_iou(boxes[row], anchors[anchor])
    by_box = iou.view(len(boxes), -1)  # all boxes have the same number of candidates
    threshold = by_box.mean(dim=1)
    if by_box.shape[1] > 1:
        threshold = threshold + by_box.std(dim=1)
    center = priors.centers[anchor]
    margin = torch.cat((center - boxes[row, :2], boxes[row, 2:] - center), dim=1).amin(dim=1)
    positive = (iou >= threshold[row]) & (margin > INSIDE)

    best = torch.full_like(distance, -1.0)
    best[row[positive], anchor[positive]] = iou[positive]
    value, gt_index = best.max(dim=0)
    is_positive = value >= 0
    return torch.where(is_positive, target.labels[gt_index], background), gt_index * is_positive


def _least(values: Tensor, k: int) -> Tensor:
    """Mask ``(N, M)`` of the k smallest values of each row; ties go to the first."""
    if values.shape[1] <= k:
        return torch.ones_like(values, dtype=torch.bool)
    limit = values.topk(k, dim=1, largest=False).values.amax(dim=1, keepdim=True)
    below, tied = values < limit, values == limit
    room = k - below.sum(dim=1, keepdim=True)
    return below | (tied & (tied.cumsum(dim=1) <= room))


class ATSSAssigner(Assigner):
    """`assign_atss` for a batch.

    Args:
        num_classes: K, the background's label.
        top_k: see `Config`.
    """

    centers_inside: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(AssignerConfig):
        """Settings of `ATSSAssigner`."""

        top_k: int = 9
        """Number of candidates per object and level: the anchors nearest to the object's centre."""

        kind: ClassVar[str] = "atss"

        def __post_init__(self) -> None:
            self._require(self.top_k >= 1, "top_k", "at least 1")

        def build(self, num_classes: int) -> ATSSAssigner:
            """The assigner for K categories."""
            return ATSSAssigner(num_classes, **self.arguments())

    def __init__(self, num_classes: int, top_k: int = 9) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.top_k = top_k

    @torch.no_grad()
    def forward(self, priors: Priors, targets: tuple[Target, ...]) -> Assignment:
        """Assign A priors to the boxes of each of B images."""
        pairs = [assign_atss(priors, target, self.num_classes, self.top_k) for target in targets]
        return Assignment(
            torch.stack([labels for labels, _ in pairs]),
            torch.stack([gt_index for _, gt_index in pairs]),
        )
