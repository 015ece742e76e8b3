"""SimOTA: each object gets the priors of lowest cost, as many as its predicted boxes overlap it.

(Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2.3; the constants are from the authors'
code.) The assignment has two parts: candidates by location, before the network runs; positives
among them by predictions, afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.assign.roles import AssignerConfig, PredictionAssigner
from hyperfocal.ops import box_iou
from hyperfocal.types import Assignment, Priors, Target

OUTSIDE = 1e6
"""Added to the cost of a prior that is not near the centre of the object."""
LEAST_LOG = -100.0
"""Minimum of log s and log(1 - s) in the cost."""


def near_centers(priors: Priors, boxes: Tensor, radius: float) -> Tensor:
    """``(A, G)`` bool, priors whose centre is near the centre of a box.

    Near means less than ``radius`` strides of the prior's level away, in x and in y.

    Args:
        priors: the A priors.
        boxes: ``(G, 4)`` xyxy.
        radius: in strides.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (priors.centers[:, None] - centers).abs().amax(dim=-1)
    return distance < radius * priors.strides[:, None]


def simota(
    near: Tensor,
    boxes: Tensor,
    scores: Tensor,
    target: Target,
    top_k: int = 10,
    iou_weight: float = 3.0,
) -> Tensor:
    """Assign the candidates of one image to its G > 0 boxes.

    The cost of candidate i for box g, with scores s, the category y of g, and the IoU of the
    predicted box:

        Σ_j BCE(s_ij, 1 if j = y else 0)  -  3 log(IoU_ig + 1e-8)  +  1e6 if i is not near g

    Box g gets its k_g candidates of lowest cost, where k_g is the sum of its ``top_k`` highest IoUs
    over all candidates, rounded down, at least 1. A candidate chosen by several boxes goes to the
    box for which it has the lowest cost. Ties go to the earlier candidate and the earlier box.

    Args:
        near: ``(P, G)`` bool, see `near_centers`.
        boxes: ``(P, 4)`` predicted boxes, xyxy.
        scores: ``(P, K)`` predicted scores in [0, 1].
        target: the image's boxes.
        top_k: number of IoUs summed.
        iou_weight: factor on the logarithm.

    Returns:
        ``(P,)`` int64, the row of the box that a candidate is assigned to, or -1.
    """
    iou = box_iou(target.boxes, boxes).nan_to_num(nan=0.0)
    scores = scores.float()
    on, off = scores.log().clamp(min=LEAST_LOG), (1 - scores).log().clamp(min=LEAST_LOG)
    own = target.labels
    entropy = -off.sum(dim=1) + (off - on)[:, own].t()
    cost = entropy - iou_weight * (iou + 1e-8).log() + OUTSIDE * ~near.t()
    best = iou.topk(min(top_k, iou.shape[1]), dim=1).values
    wanted = best.sum(dim=1).long().clamp(min=1)
    place = cost.argsort(dim=1, stable=True).argsort(dim=1)
    chosen = place < wanted[:, None]
    owners = chosen.sum(dim=0)
    row = torch.where(owners > 1, cost.argmin(dim=0), chosen.long().argmax(dim=0))
    return row.where(owners > 0, -1)


class SimOTAAssigner(PredictionAssigner):
    """Candidates by location, then `simota`, for a batch.

    Args:
        num_classes: K, the background's label.
        radius, top_k, iou_weight: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(AssignerConfig):
        """Settings of `SimOTAAssigner`."""

        kind: ClassVar[str] = "simota"

        radius: float = 1.5
        """Candidates are locations less than this many strides from an object's centre."""
        top_k: int = 10
        """An object's number of positives is the sum of this many highest IoUs of predicted
        boxes with it, at least 1."""
        iou_weight: float = 3.0
        """Factor on the IoU's logarithm in the cost."""

        def __post_init__(self) -> None:
            # A prior's centre is at most half a stride from any point of its cell.
            self._require(self.radius > 0.5, "radius", "more than 0.5")
            self._require(self.top_k >= 1, "top_k", "at least 1")
            self._require(self.iou_weight >= 0, "iou_weight", "at least 0")

        def build(self, num_classes: int) -> SimOTAAssigner:
            """The assigner for K categories."""
            return SimOTAAssigner(num_classes, **self.arguments())

    def __init__(
        self, num_classes: int, radius: float = 1.5, top_k: int = 10, iou_weight: float = 3.0
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.radius = radius
        self.top_k = top_k
        self.iou_weight = iou_weight

    @torch.no_grad()
    def forward(self, priors: Priors, targets: tuple[Target, ...]) -> Assignment:
        """The candidates of each of B images, labelled as positives of the first object nearby."""
        labels, rows = [], []
        for target in targets:
            near = near_centers(priors, target.boxes, self.radius)
            background = torch.full((len(near),), self.num_classes, device=near.device)
            first = torch.zeros_like(background)
            if len(target.labels):
                first = near.long().argmax(dim=1)
                background = torch.where(near.any(dim=1), target.labels[first], background)
            labels.append(background)
            rows.append(first)
        return Assignment(torch.stack(labels), torch.stack(rows))

    @torch.no_grad()
    def choose(
        self,
        candidates: Assignment,
        boxes: Tensor,
        scores: Tensor,
        priors: Priors,
        targets: tuple[Target, ...],
    ) -> Assignment:
        """The final assignment; see `PredictionAssigner`."""
        image, prior = candidates.positives(self.num_classes).nonzero(as_tuple=True)
        labels = torch.full_like(candidates.labels, self.num_classes)
        labels = labels.where(candidates.labels >= 0, -1)
        gt_index = torch.zeros_like(candidates.gt_index)
        for b, target in enumerate(targets):
            own = image == b
            if not len(target.labels) or not bool(own.any()):
                continue
            at = prior[own]
            near = near_centers(priors, target.boxes, self.radius)[at]
            row = simota(near, boxes[own], scores[own], target, self.top_k, self.iou_weight)
            at, row = at[row >= 0], row[row >= 0]
            labels[b, at] = target.labels[row]
            gt_index[b, at] = row
        return Assignment(labels, gt_index)
