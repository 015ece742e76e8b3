"""Varifocal loss (VFL): soft targets for objects, focal weighting for negatives only.

Formula, with p = σ(x) and q = IoU of the predicted box with its object at the label of a positive,
0 everywhere else:

    VFL = q (-q log p - (1 - q) log(1 - p))    where q > 0
          -α p^γ log(1 - p)                    where q = 0

Without ``iou_weighted`` the leading factor q is left out. Gradient with respect to the logit, q
held constant: q (p - q) where q > 0, else that of focal loss for a negative, times α.

Source: VarifocalNet (Zhang et al., CVPR 2021): α = 0.75, γ = 2, normalised by the positives.

Use it like quality focal loss, where the classification score should rank boxes by their IoU.
Unlike QFL it doesn't down-weight well-predicted objects. Objects with a poor predicted box get a
low weight, so the box branch first has to learn without the classification branch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hyperfocal.losses._core.checks import Number, per_category
from hyperfocal.losses._core.inputs import Reduction, prepare, reduce
from hyperfocal.losses._core.one_vs_all import one_vs_all_soft
from hyperfocal.losses._core.terms import focal_term, soft_focal_term
from hyperfocal.losses.alpha import MUST, Alpha, as_number, is_alpha, keep_alpha
from hyperfocal.losses.roles import ClassificationLossConfig, QualityLoss
from hyperfocal.types import CategoryCounts


def varifocal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    quality: Tensor | None = None,
    alpha: Number = 0.75,
    gamma: Number = 2.0,
    iou_weighted: bool = True,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
) -> Tensor:
    """``q·CE(p, q)`` for objects, ``-α p^γ log(1 - p)`` for the rest.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``).
        targets: integer labels (``0..K-1``, ``K`` background, ``-1`` ignored), or the qualities
            themselves as floats of the logits' shape.
        quality: with integer labels, ``(...)`` in [0, 1]: q at each row's label, read only where
            the row is an object. None: 1. No gradient flows into it.
        alpha: weight of negatives; a number or one value per category.
        gamma: focusing parameter of negatives, at least 0; a number or one value per category.
        iou_weighted: whether objects are weighted by q.
        weight: extra factor, one per row or one per logit.
        reduction: "none", "sum" or "mean" (over what isn't ignored).
        normalizer: divides the result of "none" or "sum".
        channel_dim: dimension of the categories.

    Returns:
        The logits' shape for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) values that don't fit.
        ConfigError: a setting out of range.
    """
    inputs = prepare(logits, targets, weight, channel_dim)
    alpha = per_category(alpha, "alpha", inputs.logits, 0, 1)
    gamma = per_category(gamma, "gamma", inputs.logits)
    positive = _weighted if iou_weighted else _unweighted
    loss = one_vs_all_soft(inputs, quality, positive, _negative, alpha, gamma)
    return reduce(loss, inputs, reduction, normalizer)


def _weighted(x: Tensor, q: Tensor, alpha: Number, gamma: Number) -> Tensor:
    return q * soft_focal_term(x, q, 0.0)


def _unweighted(x: Tensor, q: Tensor, alpha: Number, gamma: Number) -> Tensor:
    return soft_focal_term(x, q, 0.0)


def _negative(x: Tensor, alpha: Number, gamma: Number) -> Tensor:
    return alpha * focal_term(-x, gamma)


class VarifocalLoss(QualityLoss):
    """`varifocal_loss`, summed and divided by a normalizer.

    Args:
        alpha, gamma, iou_weighted: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `VarifocalLoss`."""

        by_category: ClassVar[tuple[str, ...]] = ("alpha",)
        kind: ClassVar[str] = "vfl"

        alpha: Alpha = 0.75
        """Weight of negatives. By category: cat=0.5,dog=0.2 or a file of such pairs."""
        gamma: float = 2.0
        """Focusing parameter of negatives."""
        iou_weighted: bool = True
        """Weigh objects by the IoU of their predicted box."""

        def __post_init__(self) -> None:
            self._require(self.alpha is not None and is_alpha(self.alpha), "alpha", MUST)
            self._require(self.gamma >= 0, "gamma", "at least 0")

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> VarifocalLoss:
            """The loss for ``num_classes`` categories."""
            return VarifocalLoss(**self.arguments(alpha=as_number(self.alpha, num_classes)))

    alpha: Number

    def __init__(self, alpha: Number = 0.75, gamma: float = 2.0, iou_weighted: bool = True) -> None:
        super().__init__()
        keep_alpha(self, alpha)
        self.gamma = gamma
        self.iou_weighted = iou_weighted

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        normalizer: Number = 1.0,
        quality: Tensor | None = None,
    ) -> Tensor:
        """Scalar: the sum over all logits ``(..., K)`` that aren't ignored, over ``normalizer``.

        ``quality (...)`` is the IoU of each row's predicted box with its object; None: 1.
        """
        return varifocal_loss(
            logits,
            targets,
            quality=quality,
            alpha=self.alpha,
            gamma=self.gamma,
            iou_weighted=self.iou_weighted,
            reduction="sum",
            normalizer=normalizer,
        )
