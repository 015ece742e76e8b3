"""Training on chosen priors only: OHEM, its 1:3 form, and SSD's hard negatives.

What focal loss is compared with (focal-loss paper, section 5.1 and Table 1d). Mining scores every
prior of an image by its summed cross entropy, whatever loss is trained, chooses some, and has the
others ignored: they add neither classification nor box loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hyperfocal.losses import hard_negatives, online_hard_examples, sigmoid_cross_entropy
from hyperfocal.models.head import DenseHead
from hyperfocal.models.roles import MiningConfig
from hyperfocal.types import Assignment, Priors

DividedBy = Literal["selected", "positives"]


@dataclass(frozen=True)
class OnlineHardMining(MiningConfig):
    """The priors with the greatest loss, thinned out by suppression (`online_hard_examples`)."""

    kind: ClassVar[str] = "ohem"

    keep: int = 128
    """Priors an image; the paper tries 128, 256 and 512."""
    nms_iou: float = 0.5
    """Suppress priors that overlap a harder one by more than this IoU; 1 suppresses none."""
    one_to_three: bool = False
    """Keep positives (at most a quarter) and three negatives for each."""
    divide_by: DividedBy = "selected"
    """Whether the losses are divided by the number of priors chosen, or of positives among them."""

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
    """All positives, and the hardest negatives of each image: SSD's mining (`hard_negatives`)."""

    kind: ClassVar[str] = "ssd"

    negatives_per_positive: float = 3.0
    """How many negatives for each positive of the image."""
    divide_by: DividedBy = "positives"
    """Whether the losses are divided by the number of priors chosen, or of positives."""

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
    head: DenseHead,
    cls_maps: Sequence[Tensor],
    assignment: Assignment,
    priors: Priors,
) -> Assignment:
    """The assignment with every prior ignored that isn't chosen; the logits of one image exist.

    Args:
        mining: how to choose; None: all.
        head: whose last convolution makes the logits.
        cls_maps: the classification tower's map of each level.
        assignment: of every image.
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
    """``(B,)``: the priors of each image that its losses are divided by.

    See `MiningConfig.counts_selected`.
    """
    if mining is not None and mining.counts_selected:
        return (assignment.labels >= 0).sum(dim=1)
    return assignment.positives(num_classes).sum(dim=1)
