"""Equalization loss v2 (EQLv2) on focal loss.

Formula, with the weights r_j of positives and q_j of negatives of `equalization_loss_v2`:

    Σ_j [y_j r_j + (1 - y_j) q_j] α_t (1 - p_t)^γ (-log p_t)

Gradient with respect to the logit: that of focal loss, times α_t and the weight. Its absolute value
(without the normalizer) is accumulated; there is no objectness logit.

Source: "EQLv2 & Focal" is a row of the Equalized Focal Loss paper's Table 1 without formula or
code; the form here is our interpretation.

Use it as the baseline for `equalized_focal_loss`. It has little effect: for most categories the
focal gradients of positives exceed those of negatives, so the ratio is large and both weights are
1, which agrees with the small gains published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, per_category, scalar_normalizer
from hyperfocal.losses._core.inputs import Inputs, Reduction, reduce
from hyperfocal.losses._core.memory import GradientRatioLoss
from hyperfocal.losses._core.one_vs_all import balance, one_vs_all, one_vs_all_sums, times
from hyperfocal.losses._core.terms import focal_slope, focal_term
from hyperfocal.losses.alpha import MUST, Alpha, as_number, is_alpha, keep_alpha
from hyperfocal.losses.eqlv2 import START, RatioMap, prepare_with_ratio
from hyperfocal.losses.kernels import Backend, Settings, focal_settings, fused_sum, serves
from hyperfocal.losses.roles import ClassificationLossConfig, StreamableLoss
from hyperfocal.types import CategoryCounts


def equalization_loss_v2_focal(
    logits: Tensor,
    targets: Tensor,
    ratio: Tensor,
    *,
    alpha: Number | None = 0.25,
    gamma: Number = 2.0,
    ratio_map: RatioMap | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
    backend: Backend = "auto",
) -> Tensor:
    """EQLv2's weights on focal loss, for given gradient ratios.

    Args:
        logits: ``(..., K)``.
        targets: as for `sigmoid_focal_loss`.
        ratio: ``(K,)`` gradient ratios, at least 0.
        alpha: weight of positives; negatives get ``1 - alpha``. None: 1 for both.
        gamma: focusing parameter; a number or one value per category.
        ratio_map: how a ratio becomes weights; None: the paper's.
        weight: extra factor, one per row or one per logit.
        reduction: "none", "sum" or "mean" (over what isn't ignored).
        normalizer: divides the result of "none" or "sum".
        channel_dim: dimension of the categories.
        backend: "auto" computes a sum over integer labels in one fused pass (see `kernels`),
            "plain" never does, "fused" does or raises.

    Returns:
        The logits' shape for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit.
        ConfigError: a setting out of range.
    """
    if serves(
        backend,
        logits,
        targets,
        weight=weight,
        reduction=reduction,
        normalizer=normalizer,
        channel_dim=channel_dim,
    ):
        settings = eqlv2_focal_settings(ratio, ratio_map, alpha, gamma, logits.shape[channel_dim])
        return fused_sum(logits, targets, settings, normalizer, channel_dim=channel_dim)[0]
    inputs, own, rest = prepare_with_ratio(
        logits, targets, ratio, ratio_map, weight, channel_dim, may_have_objectness=False
    )
    per_category(ratio, "ratio", inputs.logits)
    own, rest = _with_alpha(own, rest, alpha, inputs)
    gamma = per_category(gamma, "gamma", inputs.logits)
    loss = one_vs_all(inputs, focal_term, gamma, own=own, rest=rest)
    return reduce(loss, inputs, reduction, normalizer)


def eqlv2_focal_settings(
    ratio: Tensor,
    ratio_map: RatioMap | None,
    alpha: Number | None,
    gamma: Number,
    num_classes: int,
) -> Settings:
    """Settings of the fused form."""
    focal = focal_settings(alpha, gamma, num_classes)
    ratio = torch.as_tensor(per_category(ratio, "ratio", ratio.new_empty(num_classes)))
    own, rest = (ratio_map or RatioMap()).weights(ratio)
    return Settings(focal.gamma, own * focal.own, rest * focal.rest)


def _with_alpha(
    own: Tensor, rest: Tensor, alpha: Number | None, inputs: Inputs
) -> tuple[Tensor, Tensor]:
    positive, negative = balance(alpha, inputs.logits)
    return times(own, positive), times(rest, negative)


class EqualizationLossV2Focal(GradientRatioLoss, StreamableLoss):
    """EQLv2's weights on focal loss, accumulating its own gradient ratios.

    ``forward`` returns the summed loss and stores the statistics of the call as pending; `step`,
    called once per optimizer step, adds them to the state (see `GradientRatioLoss`). The statistics
    are those of the full loss: they include weights, alpha and modulator, but not the normalizer.

    Args:
        num_classes: K.
        backend: see `sigmoid_focal_loss`.
        alpha, gamma, steepness, midpoint, boost: see `Config`.
    """

    normalized_memory: ClassVar[bool] = False
    favours_positives: ClassVar[tuple[str, ...]] = ("alpha", "gamma")

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `EqualizationLossV2Focal`."""

        by_category: ClassVar[tuple[str, ...]] = ("alpha",)
        kind: ClassVar[str] = "eqlv2_focal"

        alpha: Alpha = 0.25
        """Weight of positives, negatives get 1 - alpha; none: 1 for both. By category:
        cat=0.5,dog=0.2 or a file of such pairs."""
        gamma: float = 2.0
        """Focusing parameter."""
        steepness: float = 12.0
        """Steepness of the weights as a function of the gradient ratio (γ_e)."""
        midpoint: float = 0.8
        """Gradient ratio at which the weight of negatives is 1/2 (μ)."""
        boost: float = 4.0
        """The maximum weight of positives is 1 + boost (α_e)."""

        def __post_init__(self) -> None:
            self._require(is_alpha(self.alpha), "alpha", f"{MUST}, or none")
            for name in ("gamma", "steepness", "midpoint", "boost"):
                self._require(getattr(self, name) >= 0, name, "at least 0")

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> EqualizationLossV2Focal:
            """The loss for ``num_classes`` categories; ``counts`` isn't used."""
            return EqualizationLossV2Focal(
                num_classes, **self.arguments(alpha=as_number(self.alpha, num_classes))
            )

    alpha: Number | None

    def __init__(
        self,
        num_classes: int,
        alpha: Number | None = 0.25,
        gamma: float = 2.0,
        steepness: float = 12.0,
        midpoint: float = 0.8,
        boost: float = 4.0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(num_classes, start=START)
        keep_alpha(self, alpha)
        self.gamma = gamma
        self.ratio_map = RatioMap(steepness, midpoint, boost)
        self.backend = backend

    def balanced(self) -> Tensor:
        """``(K,)`` bool: categories whose weight of negatives is 1, to within 0.01."""
        return self.ratio_map.balanced(self.ratio)

    def settings(self, num_classes: int) -> Settings:
        """See `StreamableLoss`."""
        return eqlv2_focal_settings(self.ratio, self.ratio_map, self.alpha, self.gamma, num_classes)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over all logits ``(..., K)`` that aren't ignored, over ``normalizer``."""
        if serves(self.backend, logits, targets, normalizer=normalizer):
            # This class's settings, not a subclass's: the plain form below ignores those too.
            settings = EqualizationLossV2Focal.settings(self, logits.shape[-1])
            fused, totals = fused_sum(logits, targets, settings, normalizer, sums=self.training)
            if self.training:
                self.remember(*(totals * scalar_normalizer(normalizer)))
            return fused
        inputs, own, rest = prepare_with_ratio(
            logits, targets, self.ratio, self.ratio_map, may_have_objectness=False
        )
        own, rest = _with_alpha(own, rest, self.alpha, inputs)
        loss = one_vs_all(inputs, focal_term, self.gamma, own=own, rest=rest)
        if self.training:
            sums = one_vs_all_sums(inputs, focal_slope, self.gamma, own=own, rest=rest)
            self.remember(*sums)
        return reduce(loss, inputs, "sum", normalizer)
