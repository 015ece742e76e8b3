"""PAA: each object splits its anchors into good and bad ones by the losses that they have now.

(Kim and Lee, "Probabilistic Anchor Assignment with IoU Prediction for Object Detection", ECCV
2020, section 3.) The assignment has two parts: candidates by IoU, before the network; positives
among them by cost, after it.
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
"""Where the authors' code and mmdetection's differ.

- The positives are the candidates up to the most likely one of the low-cost component.
  ``official``: every candidate that costs no more. ``mmdetection``: those of that component.
- An object with a single candidate, and one whose low-cost component gets no candidate.
  ``official``: all its candidates are positive. ``mmdetection``: none.
- An anchor that is the best one of some object, but overlaps another one more. ``official``: a
  candidate of the object that it overlaps more. ``mmdetection``: of the object whose best it is
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
    """Which candidates are positive.

    Of each box the ``top_k`` cheapest candidates of each level stay; a mixture of two normal
    distributions is fitted to their costs. The candidates up to the peak are positive: that which
    has the greatest density of the whole mixture of those that more likely belong to the cheaper
    component. Where the other component is the wider of the two, it may hold the cheapest
    candidates as well as the dearest; `CornerCases` says what becomes of the former.

    Args:
        cost: ``(C,)``.
        box: ``(C,)`` int64, the box that each candidate answers for.
        level: ``(C,)`` int64, its pyramid level.
        num_boxes: boxes there are.
        top_k: candidates a box and level.
        corner_cases: see `CornerCases`.

    Returns:
        ``(C,)`` bool.
    """
    positive = torch.zeros_like(box, dtype=torch.bool)
    if not box.numel():
        return positive
    # Sorted by box, level and cost, so that ranks are places within runs of equal keys.
    order = cost.argsort(stable=True)
    group = box * (int(level.max()) + 1) + level
    order = order[group[order].argsort(stable=True)]
    kept = order[_place(group[order]) < top_k]
    # Now by box and cost.
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
    """Each entry's place ``0, 1, ...`` in its run of equal (sorted) keys."""
    index = torch.arange(len(keys), device=keys.device)
    starts = torch.ones_like(keys, dtype=torch.bool)
    starts[1:] = keys[1:] != keys[:-1]
    return index - (index * starts).cummax(dim=0).values


class PAAAssigner(CostAssigner):
    """Candidates by IoU, then `split_by_cost`, for a batch.

    Args:
        num_classes: K, the background's label.
        candidate_iou: least IoU of a candidate; an object's best anchors always are candidates.
        top_k: candidates an object and level.
        corner_cases: see `CornerCases`.
    """

    @dataclass(frozen=True)
    class Config(AssignerConfig):
        """Settings of `PAAAssigner`."""

        candidate_iou: float = 0.1
        """Least IoU with an object at which an anchor may become positive (its best anchor always
        may)."""
        top_k: int = 9
        """Candidates of each object and level, cheapest first, that its mixture is fitted to."""
        corner_cases: CornerCases = "official"
        """Objects with a single candidate, or none in the cheaper component: all their candidates
        are positive (official: the authors' code) or none (mmdetection); else every candidate up
        to the peak of the cheaper component (official) or those of it alone (mmdetection)."""

        kind: ClassVar[str] = "paa"

        def __post_init__(self) -> None:
            self._require(0 < self.candidate_iou <= 1, "candidate_iou", "in (0, 1]")
            self._require(self.top_k >= 1, "top_k", "at least 1")

        def build(self, num_classes: int) -> PAAAssigner:
            """The assigner for K categories."""
            return PAAAssigner(num_classes, self.candidate_iou, self.top_k, self.corner_cases)

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
        """The candidates of each of B images, as if all were positive."""
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
        """The final assignment: candidates that aren't chosen become background.

        Args:
            candidates: what `forward` gave.
            cost: ``(P,)``, of the candidates in the order of ``positives(K).nonzero()``.
            priors: the A priors.
        """
        image, prior = candidates.positives(self.num_classes).nonzero(as_tuple=True)
        sizes = torch.tensor(priors.level_sizes, device=prior.device)
        level = torch.repeat_interleave(torch.arange(len(sizes), device=prior.device), sizes)
        # One number for a box of the batch: its image, then its row.
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
