"""From a category's gradient ratio to its focusing parameter and weight factor: EFL and EQFL."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from hyperfocal.losses.inputs import Inputs, Number, per_category
from hyperfocal.losses.kernels import Settings, focal_settings
from hyperfocal.types import ConfigError

Factors = Literal["both", "focusing", "weighting"]
"""What the ratios move: γ_j and the weight factor γ_j/γ_b; γ_j alone (weight factor 1); or the
weight factor alone (focusing parameter γ_b). The paper's Table 3."""

MIN_GAMMA = 1e-6
"""The weight factor divides by gamma."""


def focus_and_factor(
    inputs: Inputs, ratio: Tensor, gamma: float, scale: float, factors: Factors = "both"
) -> tuple[Tensor, Tensor]:
    """Per category, the focusing parameter γ_j and the weight factor γ_j/γ_b."""
    ratio = torch.as_tensor(per_category(ratio, "ratio", inputs.logits, 0, 1))
    return _chosen(gamma + scale * (1 - ratio), gamma, factors)


def _chosen(focus: Tensor, gamma: float, factors: Factors) -> tuple[Tensor, Tensor]:
    """Focusing parameter and weight factor from γ_j."""
    if factors not in get_args(Factors):
        raise ConfigError(f"factors = {factors!r}, but it must be one of {get_args(Factors)}")
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
    """What the fused pass computes with; with scale 0 what it computes focal loss with."""
    focal = focal_settings(alpha, gamma, num_classes)
    if scale == 0:
        return focal
    ratio = torch.as_tensor(per_category(ratio, "ratio", ratio.new_empty(num_classes), 0, 1))
    focus, factor = _chosen(gamma + scale * (1 - ratio), gamma, factors)
    return Settings(focus, factor * focal.own, factor * focal.rest)
