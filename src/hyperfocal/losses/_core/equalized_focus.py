"""Focusing parameter and weight factor of a category from its gradient ratio, for EFL and EQFL."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_choice, per_category
from hyperfocal.losses._core.inputs import Inputs
from hyperfocal.losses._core.terms import focal_slope
from hyperfocal.losses.kernels import Settings, focal_settings
from hyperfocal.types import ConfigError, DataError

Factors = Literal["both", "focusing", "weighting"]
"""What depends on the ratios: both γ_j and the weight factor γ_j/γ_b; only γ_j (weight factor 1);
or only the weight factor (focusing parameter γ_b). The paper's Table 3."""

MIN_GAMMA = 1e-6
"""Smallest gamma allowed, because the weight factor divides by it."""


def focus_and_factor(
    inputs: Inputs, ratio: Tensor, gamma: float, scale: float, factors: Factors = "both"
) -> tuple[Tensor, Tensor]:
    """Per category, the focusing parameter γ_j and the weight factor γ_j/γ_b."""
    ratio = torch.as_tensor(per_category(ratio, "ratio", inputs.logits, 0, 1))
    return _chosen(gamma + scale * (1 - ratio), gamma, factors)


def _chosen(focus: Tensor, gamma: float, factors: Factors) -> tuple[Tensor, Tensor]:
    """Focusing parameter and weight factor from γ_j."""
    check_choice(factors, "factors", Factors)
    factor = focus / gamma
    if factors == "focusing":
        return focus, torch.ones_like(factor)
    if factors == "weighting":
        return torch.full_like(focus, gamma), factor
    return focus, factor


def equalized_settings(
    ratio: Tensor,
    alpha: Number | None,
    gamma: float,
    scale: float,
    num_classes: int,
    factors: Factors = "both",
) -> Settings:
    """Settings of the fused form; with scale 0 those of focal loss."""
    focal = focal_settings(alpha, gamma, num_classes)
    if scale == 0:
        return focal
    ratio = torch.as_tensor(per_category(ratio, "ratio", ratio.new_empty(num_classes), 0, 1))
    focus, factor = _chosen(gamma + scale * (1 - ratio), gamma, factors)
    return Settings(focus, factor * focal.own, factor * focal.rest)


def first_gradient_ratio(
    prior: float,
    positives: Tensor,
    negatives: Tensor,
    *,
    alpha: Number | None = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Initial gradient ratios of EFL, where all probabilities are the prior π; not clamped to 1.

    Formula, for a category with n⁺ positives and n⁻ negatives:

        g = α (1-π)^γ (1 - π - γ π log π) n⁺ / ((1-α) π^γ (π - γ (1-π) log(1-π)) n⁻)

    EFL differs from focal loss only for categories with g below 1. For a small prior these are the
    ones with ``n⁺/n⁻ < (γ + 1) π^(γ+1) (1-α)/α``, fewer with a lower prior. During training the
    ratios move towards 1 (docs/long_tail.md).

    Args:
        prior: π, the initial probability of the head, in (0, 1).
        positives: ``(K,)``, positive priors of each category over the dataset.
        negatives: ``(K,)``, all other priors that aren't ignored.
        alpha: weight of positives, negatives get ``1 - alpha``; None: 1 for both.
        gamma: γ_b.

    Returns:
        ``(K,)`` float64; infinite without negatives.

    Raises:
        ConfigError: a prior that isn't between 0 and 1.
        DataError: counts of different shapes.

    Examples:
        >>> import torch
        >>> positives = torch.tensor([5000, 50])
        >>> ratio = first_gradient_ratio(0.01, positives, 1_000_000_000 - positives)
        >>> ratio.round(decimals=3)
        tensor([0.5910, 0.0060], dtype=torch.float64)
    """
    if not 0 < prior < 1:
        raise ConfigError(f"prior = {prior}, but it must be between 0 and 1")
    if positives.shape != negatives.shape:
        raise DataError(
            f"positives have shape {tuple(positives.shape)}, negatives {tuple(negatives.shape)}"
        )
    logit = torch.tensor(math.log(prior / (1 - prior)), dtype=torch.float64)
    own, rest = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    positive = own * focal_slope(logit, gamma) * positives.double()
    return positive / (rest * focal_slope(-logit, gamma) * negatives.double())
