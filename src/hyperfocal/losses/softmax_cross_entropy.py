"""Softmax cross entropy with the background as a category.

Formula, with q = softmax(x) over K categories and the background, label c and weight w_c::

    CE = -w_c log q_c

Gradient with respect to the logit: w_c (q_k - 1[k = c]).

Source: Fast R-CNN (Girshick, ICCV 2015), section 2.3, the classifier of Faster R-CNN. With
class-balanced weights (`class_balanced_weights`): Cui et al., CVPR 2019.

Use it for the classifier of a two-stage detector or SSD, whose rows are sampled so that the
background doesn't dominate. It is the baseline of the long-tail papers: a frequent category's
objects are negatives of every rare one, see `seesaw` and `eql` for remedies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, integer_labels
from hyperfocal.losses._core.counts import require_counts
from hyperfocal.losses.class_balanced import class_balanced_weights
from hyperfocal.losses.roles import ClassificationLossConfig
from hyperfocal.losses.softmax_focal import softmax_focal_loss
from hyperfocal.losses.softmax_logits import SoftmaxLogits
from hyperfocal.types import CategoryCounts, ConfigError


class SoftmaxCrossEntropyLoss(SoftmaxLogits):
    """Softmax cross entropy, summed and divided by a normalizer.

    Args:
        num_classes: K; logits are ``(..., K + 1)``, the background last.
        weights: ``(K,)``, one per category; the background has weight 1. None: 1.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import SoftmaxCrossEntropyLoss
        >>> loss = SoftmaxCrossEntropyLoss(num_classes=3)
        >>> loss(torch.zeros(2, 4), torch.tensor([0, 3]))  # category 0 and background: 2 log 4
        tensor(2.7726)
        >>> loss.scores(torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500]])
    """

    weights: Tensor | None

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `SoftmaxCrossEntropyLoss`."""

        kind: ClassVar[str] = "softmax_ce"

        @property
        def has_own_logits(self) -> bool:
            """True."""
            return True

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> SoftmaxCrossEntropyLoss:
            """The loss for ``num_classes`` categories; ``counts`` isn't used."""
            return SoftmaxCrossEntropyLoss(num_classes)

    def __init__(self, num_classes: int, weights: Tensor | None = None) -> None:
        super().__init__(num_classes)
        if weights is not None and weights.shape != (num_classes,):
            raise ConfigError(
                f"weights has shape {tuple(weights.shape)}, but it must be ({num_classes},)"
            )
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over rows ``(..., K + 1)`` that aren't ignored, over ``normalizer``."""
        self.check_width(logits)
        weight = None
        if self.weights is not None:
            targets = integer_labels(targets, self.num_classes)
            padded = torch.cat([self.weights, self.weights.new_ones(1)])
            weight = padded[targets]  # that of ignored rows isn't used
        return softmax_focal_loss(
            logits, targets, gamma=0.0, weight=weight, reduction="sum", normalizer=normalizer
        )


@dataclass(frozen=True)
class ClassBalancedSoftmax(ClassificationLossConfig):
    """Settings of `SoftmaxCrossEntropyLoss` with `class_balanced_weights`."""

    kind: ClassVar[str] = "cb_softmax"

    beta: float = 0.999
    """In [0, 1): 0 gives equal weights, towards 1 it becomes inverse frequency."""

    def __post_init__(self) -> None:
        self._require(0 <= self.beta < 1, "beta", "in [0, 1)")

    @property
    def has_own_logits(self) -> bool:
        """True."""
        return True

    def build(
        self, num_classes: int, counts: CategoryCounts | None = None
    ) -> SoftmaxCrossEntropyLoss:
        """The loss, with weights from the training split's boxes per category."""
        instances = require_counts(counts, num_classes, self.kind).instances
        return SoftmaxCrossEntropyLoss(num_classes, class_balanced_weights(instances, self.beta))
