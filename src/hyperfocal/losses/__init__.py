"""Losses for imbalanced data: each a function, a module and its Config. They need only PyTorch.

Every classification loss takes ``logits (..., K)`` and either integer labels (``0..K-1`` a
category, ``K`` background, ``-1`` ignored) or float targets, computes from the logits in float32 or
better, and is finite with a finite gradient for logits up to 1e30. The modules return the sum
divided by a normalizer, as dense detectors train; call ``step()`` of those with memory after each
optimizer step (see `memory`). Further capabilities are declared by the base class (`roles`).
"""

from __future__ import annotations

from hyperfocal.losses._core.equalized_focus import first_gradient_ratio
from hyperfocal.losses._core.memory import step_losses
from hyperfocal.losses.bags import (
    BalancedGroupSoftmaxLoss,
    CategoryGroups,
    bags_scores,
    balanced_group_softmax_loss,
)
from hyperfocal.losses.calibration import posterior_from_focal, posterior_from_softmax_focal
from hyperfocal.losses.class_balanced import (
    ClassBalancedFocalLoss,
    class_balanced_weights,
    inverse_frequency_weights,
)
from hyperfocal.losses.cross_entropy import SigmoidCrossEntropyLoss, sigmoid_cross_entropy
from hyperfocal.losses.distribution_focal import (
    DistributionFocalLoss,
    distribution_focal_loss,
    expected_distance,
)
from hyperfocal.losses.eql import EqualizationLoss, equalization_loss, rare_categories
from hyperfocal.losses.eqlv2 import (
    EqualizationLossV2,
    EqualizationLossV2WithObjectness,
    eqlv2_scores,
    equalization_loss_v2,
)
from hyperfocal.losses.eqlv2_focal import EqualizationLossV2Focal, equalization_loss_v2_focal
from hyperfocal.losses.equalized_focal import EqualizedFocalLoss, equalized_focal_loss
from hyperfocal.losses.equalized_quality_focal import (
    EqualizedQualityFocalLoss,
    equalized_quality_focal_loss,
)
from hyperfocal.losses.focal import SigmoidFocalLoss, sigmoid_focal_loss
from hyperfocal.losses.focal_star import FocalStarLoss, focal_star_loss
from hyperfocal.losses.ghm import GHMClassificationLoss, ghm_classification_loss
from hyperfocal.losses.ghm_regression import GHMRegressionLoss, ghm_regression_loss
from hyperfocal.losses.hinge import HingeLoss, hinge_loss
from hyperfocal.losses.iou import GIoULoss, IoULoss, giou_loss, iou_loss
from hyperfocal.losses.ohem import hard_negatives, online_hard_examples
from hyperfocal.losses.quality_focal import QualityFocalLoss, quality_focal_loss
from hyperfocal.losses.roles import (
    BoxLoss,
    BoxLossConfig,
    ClassificationLossConfig,
    LossWithMemory,
    LossWithOwnLogits,
    QualityLoss,
    StreamableLoss,
    category_logits,
    class_scores,
    initial_bias,
    num_logits,
)
from hyperfocal.losses.seesaw import SeesawLoss, seesaw_loss, seesaw_scores
from hyperfocal.losses.smooth_l1 import SmoothL1Loss, smooth_l1_loss
from hyperfocal.losses.softmax_cross_entropy import ClassBalancedSoftmax, SoftmaxCrossEntropyLoss
from hyperfocal.losses.softmax_focal import (
    SoftmaxFocalClassifierLoss,
    SoftmaxFocalLoss,
    softmax_focal_loss,
)
from hyperfocal.losses.softmax_logits import SoftmaxLogits, softmax_prior_bias
from hyperfocal.losses.varifocal import VarifocalLoss, varifocal_loss

__all__ = [
    "BalancedGroupSoftmaxLoss",
    "BoxLoss",
    "BoxLossConfig",
    "CategoryGroups",
    "ClassBalancedFocalLoss",
    "ClassBalancedSoftmax",
    "ClassificationLossConfig",
    "DistributionFocalLoss",
    "EqualizationLoss",
    "EqualizationLossV2",
    "EqualizationLossV2Focal",
    "EqualizationLossV2WithObjectness",
    "EqualizedFocalLoss",
    "EqualizedQualityFocalLoss",
    "FocalStarLoss",
    "GHMClassificationLoss",
    "GHMRegressionLoss",
    "GIoULoss",
    "HingeLoss",
    "IoULoss",
    "LossWithMemory",
    "LossWithOwnLogits",
    "QualityFocalLoss",
    "QualityLoss",
    "SeesawLoss",
    "SigmoidCrossEntropyLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SoftmaxCrossEntropyLoss",
    "SoftmaxFocalClassifierLoss",
    "SoftmaxFocalLoss",
    "SoftmaxLogits",
    "StreamableLoss",
    "VarifocalLoss",
    "bags_scores",
    "balanced_group_softmax_loss",
    "category_logits",
    "class_balanced_weights",
    "class_scores",
    "distribution_focal_loss",
    "eqlv2_scores",
    "equalization_loss",
    "equalization_loss_v2",
    "equalization_loss_v2_focal",
    "equalized_focal_loss",
    "equalized_quality_focal_loss",
    "expected_distance",
    "first_gradient_ratio",
    "focal_star_loss",
    "ghm_classification_loss",
    "ghm_regression_loss",
    "giou_loss",
    "hard_negatives",
    "hinge_loss",
    "initial_bias",
    "inverse_frequency_weights",
    "iou_loss",
    "num_logits",
    "online_hard_examples",
    "posterior_from_focal",
    "posterior_from_softmax_focal",
    "quality_focal_loss",
    "rare_categories",
    "seesaw_loss",
    "seesaw_scores",
    "sigmoid_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "softmax_focal_loss",
    "softmax_prior_bias",
    "step_losses",
    "varifocal_loss",
]
