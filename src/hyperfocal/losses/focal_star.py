"""FL*, the focal loss's alternative form.

Formula, with x_t = x for a positive and -x for a negative:

    p*_t = σ(γ x_t + β)
    FL*  = -α_t log(p*_t) / γ

Gradient with respect to the logit: y α_t (p*_t - 1).

Source: focal-loss paper, appendix A, with (γ, β) = (2, 1) and (4, 0), α = 0.25. (1, 0) is cross
entropy.

It shows that the exact form of focal loss doesn't matter as long as easy examples are suppressed:
the AP in the paper is the same. Use focal loss except to study this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hyperfocal.losses._core.checks import Number, check_scalar
from hyperfocal.losses._core.inputs import Reduction, prepare, reduce, widest
from hyperfocal.losses._core.one_vs_all import balance, one_vs_all
from hyperfocal.losses._core.terms import cross_entropy_term
from hyperfocal.losses.alpha import MUST, Alpha, as_number, is_alpha, keep_alpha
from hyperfocal.losses.roles import ClassificationLossConfig
from hyperfocal.types import CategoryCounts

MIN_GAMMA = 1e-6
"""Smallest gamma allowed, because FL* divides by it."""
MIN_BETA = -1e4
"""Smallest beta allowed, so that the loss stays finite."""


def focal_star_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: Number | None = 0.25,
    gamma: float = 2.0,
    beta: float = 1.0,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
) -> Tensor:
    """``-α_t log σ(γ x_t + β) / γ``.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``).
        targets: as for `sigmoid_focal_loss`.
        alpha: weight of positives; negatives get ``1 - alpha``. None: 1 for both.
        gamma: steepness, above 0.
        beta: shift, at least -1e4.
        weight: extra factor, one per row or one per logit.
        reduction: "none", "sum" or "mean" (over what isn't ignored).
        normalizer: divides the result of "none" or "sum".
        channel_dim: dimension of the categories.

    Returns:
        The logits' shape for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit.
        ConfigError: a setting out of range.
    """
    check_scalar(gamma, "gamma", low=MIN_GAMMA)
    check_scalar(beta, "beta", low=MIN_BETA)
    inputs = prepare(logits, targets, weight, channel_dim)
    own, rest = balance(alpha, inputs.logits)
    loss = one_vs_all(inputs, _term, gamma, beta, own=own, rest=rest)
    return reduce(loss, inputs, reduction, normalizer)


def _term(x_t: Tensor, gamma: float, beta: float) -> Tensor:
    # For large z = γ x_t + β the value is about e^-z, so rounding z = 80 to float32 alone causes a
    # relative error of 4e-6.
    z = gamma * widest(x_t) + beta
    return (cross_entropy_term(z) / gamma).to(x_t.dtype)


class FocalStarLoss(nn.Module):
    """`focal_star_loss`, summed and divided by a normalizer.

    Args:
        alpha, gamma, beta: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `FocalStarLoss`."""

        by_category: ClassVar[tuple[str, ...]] = ("alpha",)
        kind: ClassVar[str] = "focal_star"

        alpha: Alpha = 0.25
        """Weight of positives, negatives get 1 - alpha; none: 1 for both. By category:
        cat=0.5,dog=0.2 or a file of such pairs."""
        gamma: float = 2.0
        """Steepness."""
        beta: float = 1.0
        """Shift."""

        def __post_init__(self) -> None:
            self._require(is_alpha(self.alpha), "alpha", f"{MUST}, or none")
            self._require(self.gamma >= MIN_GAMMA, "gamma", "above 0")
            self._require(MIN_BETA <= self.beta < math.inf, "beta", f"at least {MIN_BETA:g}")

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> FocalStarLoss:
            """The loss for ``num_classes`` categories."""
            return FocalStarLoss(**self.arguments(alpha=as_number(self.alpha, num_classes)))

    alpha: Number | None

    def __init__(self, alpha: Number | None = 0.25, gamma: float = 2.0, beta: float = 1.0) -> None:
        super().__init__()
        keep_alpha(self, alpha)
        self.gamma = gamma
        self.beta = beta

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over all logits ``(..., K)`` that aren't ignored, over ``normalizer``."""
        return focal_star_loss(
            logits,
            targets,
            alpha=self.alpha,
            gamma=self.gamma,
            beta=self.beta,
            reduction="sum",
            normalizer=normalizer,
        )
