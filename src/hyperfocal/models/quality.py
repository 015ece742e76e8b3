"""The quality branch, which predicts the quality of each prior's box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hyperfocal import config
from hyperfocal.models.head import QualityTower

QualityTarget = Literal["centerness", "iou", "object"]
"""Target of the branch: the centerness of a location in its object (FCOS), the IoU of the predicted
box (PAA), or whether the prior is positive at all (YOLOX's objectness). The branch is trained on
the positives; for objectness on all priors, and then the classification on the positives."""


def centerness(centers: Tensor, boxes: Tensor) -> Tensor:
    """``sqrt(min(l, r) / max(l, r) · min(t, b) / max(t, b))`` of points in boxes.

    Args:
        centers: ``(P, 2)`` xy.
        boxes: ``(P, 4)`` xyxy, in the same frame.

    Returns:
        ``(P,)`` in [0, 1]; 0 for a point outside its box.
    """
    first, second = centers - boxes[:, :2], boxes[:, 2:] - centers
    ratio = torch.minimum(first, second) / torch.maximum(first, second).clamp(min=1e-6)
    return ratio.clamp(min=0).prod(dim=1).sqrt()


def centerness_at(priors: Tensor, boxes: Tensor) -> Tensor:
    """`centerness` of the centers of priors ``(P, 4)`` in boxes ``(P, 4)``."""
    return centerness((priors[:, :2] + priors[:, 2:]) / 2, boxes)


@dataclass(frozen=True)
class QualityBranch(config.Config):
    """Settings of the quality branch, its loss and its use in the score."""

    target: QualityTarget = "centerness"
    """Target: centerness, the IoU of the predicted box (iou), or whether the prior is positive
    (object: YOLOX's objectness, trained on all priors, and the classification on positives)."""
    tower: QualityTower = "box"
    """Tower of the branch: the box tower (box), or the classification tower (class), as in the
    original FCOS."""
    weight: float = 1.0
    """Factor on its loss, the cross entropy over the positives (object: over all priors)."""
    weigh_boxes: bool = True
    """Weight the box loss of each positive by its target and divide by the sum of targets (else
    equal weights, divided by the number of positives)."""
    score: Literal["sqrt", "product"] = "sqrt"
    """Score of a detection from classification p and quality q: sqrt(p·q), or p·q (product)."""
    threshold_on: Literal["class", "score"] = "class"
    """What the score threshold applies to: p, or the score."""

    kind: ClassVar[str] = "quality"

    def __post_init__(self) -> None:
        self._require(self.weight >= 0, "weight", "at least 0")
        if self.target == "object":
            self._require(not self.weigh_boxes, "weigh_boxes", "off with target object, which is 1")

    def scores(self, logits: Tensor, quality: Tensor) -> Tensor:
        """Scores ``(...)`` of classification and quality logits ``(...)``, float32."""
        product = logits.float().sigmoid() * quality.float().sigmoid()
        return product.sqrt() if self.score == "sqrt" else product
