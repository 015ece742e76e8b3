"""Hard example mining: OHEM, its 1:3 form, and SSD's hard negatives.

These are the baselines of focal loss (focal-loss paper, section 5.1 and Table 1d). Mining scores
each prior of an image by its summed cross entropy, independently of the training loss, and selects
some; the others are ignored in the classification and box losses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hyperfocal.losses import hard_negatives, online_hard_examples, sigmoid_cross_entropy
from hyperfocal.models.head import Head
from hyperfocal.models.roles import MiningConfig
from hyperfocal.types import Assignment, Priors

DividedBy = Literal["selected", "positives"]


@dataclass(frozen=True)
class OnlineHardMining(MiningConfig):
    """Selects the priors with the highest loss after NMS (`online_hard_examples`)."""

    kind: ClassVar[str] = "ohem"

    keep: int = 128
    """Number of priors per image; 128, 256 and 512 in the paper."""
    nms_iou: float = 0.5
    """Suppress priors whose IoU with a harder one is greater than this; 1 suppresses none."""
    one_to_three: bool = False
    """Keep positives (at most a quarter) and three negatives per positive."""
    divide_by: DividedBy = "selected"
    """Divide the losses by the number of selected priors, or of positives among them."""

    def __post_init__(self) -> None:
        self._require(self.keep >= 1, "keep", "at least 1")
        self._require(
            self.keep >= 4 or not self.one_to_three, "keep", "at least 4 for one to three"
        )
        self._require(0 <= self.nms_iou <= 1, "nms_iou", "in [0, 1]")

    @property
    def counts_selected(self) -> bool:
        """See `MiningConfig`."""
        return self.divide_by == "selected"

    def choose(self, losses: Tensor, labels: Tensor, boxes: Tensor, num_classes: int) -> Tensor:
        """``(A,)`` bool of one image, from its ``(A,)`` losses and labels and ``(A, 4)`` boxes."""
        return online_hard_examples(
            losses,
            labels,
            boxes,
            num_classes,
            keep=self.keep,
            nms_threshold=self.nms_iou,
            one_to_three=self.one_to_three,
        )


@dataclass(frozen=True)
class HardNegativeMining(MiningConfig):
    """Selects all positives and the hardest negatives per image, as in SSD (`hard_negatives`)."""

    kind: ClassVar[str] = "ssd"

    negatives_per_positive: float = 3.0
    """Number of negatives per positive of the image."""
    divide_by: DividedBy = "positives"
    """Divide the losses by the number of selected priors, or of positives."""

    def __post_init__(self) -> None:
        self._require(self.negatives_per_positive > 0, "negatives_per_positive", "above 0")

    @property
    def counts_selected(self) -> bool:
        """See `MiningConfig`."""
        return self.divide_by == "selected"

    def choose(self, losses: Tensor, labels: Tensor, boxes: Tensor, num_classes: int) -> Tensor:
        """``(A,)`` bool of one image, from its ``(A,)`` losses and labels."""
        return hard_negatives(losses, labels, num_classes, ratio=self.negatives_per_positive)


@torch.no_grad()
def mine(
    mining: MiningConfig | None,
    head: Head,
    cls_maps: Sequence[Tensor],
    assignment: Assignment,
    priors: Priors,
) -> Assignment:
    """The assignment with all priors ignored that mining doesn't select.

    Only the logits of one image are in memory at a time.

    Args:
        mining: the selection; None: all.
        head: its last convolution computes the logits.
        cls_maps: the classification tower's map of each level.
        assignment: the assignment of the batch.
        priors: the A priors.
    """
    if mining is None:
        return assignment
    labels = []
    for image, own in enumerate(assignment.labels):
        losses = sigmoid_cross_entropy(head.classify_image(cls_maps, image), own).sum(dim=1)
        chosen = mining.choose(losses, own, priors.boxes, head.num_classes)
        labels.append(torch.where(chosen, own, -1))
    return dataclasses.replace(assignment, labels=torch.stack(labels))


def counted(mining: MiningConfig | None, assignment: Assignment, num_classes: int) -> Tensor:
    """``(B,)``: the number of priors that each image's losses are divided by.

    See `MiningConfig.counts_selected`.
    """
    if mining is not None and mining.counts_selected:
        return (assignment.labels >= 0).sum(dim=1)
    return assignment.positives(num_classes).sum(dim=1)
