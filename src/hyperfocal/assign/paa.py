"""PAA: positives are selected among each object's candidates by their current loss.

(Kim and Lee, "Probabilistic Anchor Assignment with IoU Prediction for Object Detection", ECCV
2020, section 3.) The assignment has two parts: candidates by IoU, before the network runs;
positives among them by cost, afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hyperfocal.assign.max_iou import LowQuality, assign_max_iou
from hyperfocal.assign.mixture import fit_mixtures
from hyperfocal.assign.roles import AssignerConfig, CostAssigner
from hyperfocal.types import Assignment, Priors, Target

CornerCases = Literal["official", "mmdetection"]
"""Differences between the authors' code and mmdetection.

- The positives are the candidates up to the most likely one of the low-cost component.
  ``official``: all candidates of at most its cost. ``mmdetection``: only those of that component.
- Objects with a single candidate, or with no candidate in the low-cost component. ``official``: all
  their candidates are positive. ``mmdetection``: none.
- Anchors that are the best of one object but have a higher IoU with another. ``official``:
  candidates of the object with the higher IoU. ``mmdetection``: of the object whose best they are
  (`LowQuality`).
"""


def split_by_cost(
    cost: Tensor,
    box: Tensor,
    level: Tensor,
    num_boxes: int,
    top_k: int = 9,
    corner_cases: CornerCases = "official",
) -> Tensor:
    """Select the positives among the candidates.

    The ``top_k`` candidates of lowest cost are kept per box and level; a mixture of two normal
    distributions is fitted to their costs. The positives are the candidates up to the peak: of the
    candidates that more likely belong to the low-cost component, the one with the highest density
    of the mixture. If the other component is wider, it may also contain the candidates of lowest
    cost; see `CornerCases` for how they are handled.

    Args:
        cost: ``(C,)``.
        box: ``(C,)`` int64, the box that each candidate is assigned to.
        level: ``(C,)`` int64, pyramid level.
        num_boxes: number of boxes.
        top_k: candidates per box and level.
        corner_cases: see `CornerCases`.

    Returns:
        ``(C,)`` bool.
    """
    positive = torch.zeros_like(box, dtype=torch.bool)
    if not box.numel():
        return positive
    # Sort by box, level and cost, so that ranks are positions in runs of equal keys.
    order = cost.argsort(stable=True)
    group = box * (int(level.max()) + 1) + level
    order = order[group[order].argsort(stable=True)]
    kept = order[_place(group[order]) < top_k]
    # Sort by box and cost.
    kept = kept[cost[kept].argsort(stable=True)]
    kept = kept[box[kept].argsort(stable=True)]
    row, column = box[kept], _place(box[kept])
    counts = torch.bincount(row, minlength=num_boxes)
    costs = torch.zeros(num_boxes, int(counts.max()), dtype=torch.float64, device=cost.device)
    costs[row, column] = cost[kept].double()
    valid = torch.arange(costs.shape[1], device=cost.device) < counts[:, None]
    chosen = torch.zeros_like(valid)
    several = counts > 1
    if bool(several.any()):
        values, mask = costs[several], valid[several]
        joint = fit_mixtures(values, mask).log_joint(values)
        cheap = (joint[..., 0] >= joint[..., 1]) & mask
        density = joint.logsumexp(dim=-1).where(cheap, -math.inf)
        last = density.argmax(dim=1, keepdim=True)
        here = torch.arange(values.shape[1], device=cost.device) <= last
        if corner_cases == "official":
            here = mask & (here | ~cheap.any(dim=1, keepdim=True))
        else:
            here &= cheap
        chosen[several] = here
    if corner_cases == "official":
        chosen |= valid & (counts == 1)[:, None]
    positive[kept] = chosen[row, column]
    return positive


def _place(keys: Tensor) -> Tensor:
    """Position ``0, 1, ...`` of each entry in its run of equal (sorted) keys."""
    index = torch.arange(len(keys), device=keys.device)
    starts = torch.ones_like(keys, dtype=torch.bool)
    starts[1:] = keys[1:] != keys[:-1]
    return index - (index * starts).cummax(dim=0).values


class PAAAssigner(CostAssigner):
    """Candidates by IoU, then `split_by_cost`, for a batch.

    Args:
        num_classes: K, the background's label.
        candidate_iou, top_k, corner_cases: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(AssignerConfig):
        """Settings of `PAAAssigner`."""

        candidate_iou: float = 0.1
        """Minimum IoU of a candidate with its object (the object's best anchor always is one)."""
        top_k: int = 9
        """Number of candidates of lowest cost per object and level that the mixture is fitted
        to."""
        corner_cases: CornerCases = "official"
        """Objects with a single candidate, or none in the low-cost component: all their candidates
        are positive (official: the authors' code) or none (mmdetection). Other objects: all
        candidates up to the peak of the low-cost component (official) or only its own
        (mmdetection)."""

        kind: ClassVar[str] = "paa"

        def __post_init__(self) -> None:
            self._require(0 < self.candidate_iou <= 1, "candidate_iou", "in (0, 1]")
            self._require(self.top_k >= 1, "top_k", "at least 1")

        def build(self, num_classes: int) -> PAAAssigner:
            """The assigner for K categories."""
            return PAAAssigner(num_classes, **self.arguments())

    def __init__(
        self,
        num_classes: int,
        candidate_iou: float = 0.1,
        top_k: int = 9,
        corner_cases: CornerCases = "official",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.candidate_iou = candidate_iou
        self.top_k = top_k
        self.corner_cases: CornerCases = corner_cases

    @torch.no_grad()
    def forward(self, priors: Priors, targets: tuple[Target, ...]) -> Assignment:
        """The candidates of each of B images, labelled as positives."""
        limit = self.candidate_iou
        rule: LowQuality = "any" if self.corner_cases == "official" else "mmdetection"
        pairs = [
            assign_max_iou(priors.boxes, target, self.num_classes, limit, limit, rule)
            for target in targets
        ]
        return Assignment(
            torch.stack([labels for labels, _ in pairs]),
            torch.stack([gt_index for _, gt_index in pairs]),
        )

    @torch.no_grad()
    def choose(self, candidates: Assignment, cost: Tensor, priors: Priors) -> Assignment:
        """The final assignment: candidates that aren't selected become background.

        Args:
            candidates: the result of `forward`.
            cost: ``(P,)``, of the candidates in the order of ``positives(K).nonzero()``.
            priors: the A priors.
        """
        image, prior = candidates.positives(self.num_classes).nonzero(as_tuple=True)
        sizes = torch.tensor(priors.level_sizes, device=prior.device)
        level = torch.repeat_interleave(torch.arange(len(sizes), device=prior.device), sizes)
        # Index of a box in the batch, from its image and row.
        most = int(candidates.gt_index.max()) + 1
        box = image * most + candidates.gt_index[image, prior]
        positive = split_by_cost(
            cost, box, level[prior], most * len(candidates.labels), self.top_k, self.corner_cases
        )
        labels = candidates.labels.clone()
        labels[image[~positive], prior[~positive]] = self.num_classes
        gt_index = candidates.gt_index.clone()
        gt_index[image[~positive], prior[~positive]] = 0
        return Assignment(labels, gt_index)
