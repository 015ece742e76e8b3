"""Losses for imbalanced data, usable alone: each a function, a thin module and its settings.

Every classification loss takes ``logits (..., K)`` and either integer labels (``0..K-1`` a
category, ``K`` background, ``-1`` ignored) or float targets, works from the logits in float32 or
better, and is finite with a finite gradient for every finite logit. The modules return the sum over
a normalizer, which is what a dense detector trains with.
"""

from __future__ import annotations

from hyperfocal.losses.cross_entropy import SigmoidCrossEntropyLoss, sigmoid_cross_entropy
from hyperfocal.losses.eqlv2 import EqualizationLossV2, eqlv2_scores, equalization_loss_v2
from hyperfocal.losses.eqlv2_focal import EqualizationLossV2Focal, equalization_loss_v2_focal
from hyperfocal.losses.equalized_focal import EqualizedFocalLoss, equalized_focal_loss
from hyperfocal.losses.focal import SigmoidFocalLoss, sigmoid_focal_loss
from hyperfocal.losses.iou import GIoULoss, IoULoss, giou_loss, iou_loss
from hyperfocal.losses.memory import LossWithMemory, step_losses
from hyperfocal.losses.smooth_l1 import SmoothL1Loss, smooth_l1_loss

ClassificationLossConfig = (
    SigmoidFocalLoss.Config
    | SigmoidCrossEntropyLoss.Config
    | EqualizedFocalLoss.Config
    | EqualizationLossV2.Config
    | EqualizationLossV2Focal.Config
)
"""Losses that a dense detector can train its K sigmoid outputs with."""

BoxLossConfig = SmoothL1Loss.Config | GIoULoss.Config | IoULoss.Config
"""Losses that a dense detector can train its boxes with."""

__all__ = [
    "BoxLossConfig",
    "ClassificationLossConfig",
    "EqualizationLossV2",
    "EqualizationLossV2Focal",
    "EqualizedFocalLoss",
    "GIoULoss",
    "IoULoss",
    "LossWithMemory",
    "SigmoidCrossEntropyLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "eqlv2_scores",
    "equalization_loss_v2",
    "equalization_loss_v2_focal",
    "equalized_focal_loss",
    "giou_loss",
    "iou_loss",
    "sigmoid_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "step_losses",
]
