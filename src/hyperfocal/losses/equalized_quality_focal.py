"""Equalized quality focal loss (EQFL): equalized focal loss with the box quality as target.

Formula, with the γ_j of `equalized_focal_loss` and the q of `quality_focal_loss`:

    EQFL = Σ_j (γ_j / γ_b) |q_j - p_j|^γ_j (-q_j log p_j - (1 - q_j) log(1 - p_j))

There is no alpha. Gradient with respect to the logit: γ_j/γ_b times that of QFL with β = γ_j. Its
absolute value, including the normalizer, is accumulated per category as for EFL: as positive at the
label of each object, as negative everywhere else.

Source: the released code of the Equalized Focal Loss paper (Li et al., CVPR 2022); it isn't in the
paper.

Use it in place of quality focal loss where the categories are long-tailed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_scalar, scalar_normalizer
from hyperfocal.losses._core.equalized_focus import MIN_GAMMA, equalized_settings, focus_and_factor
from hyperfocal.losses._core.inputs import Reduction, prepare, reduce
from hyperfocal.losses._core.memory import GradientRatioLoss
from hyperfocal.losses._core.one_vs_all import (
    at_label,
    label_index,
    one_vs_all_soft,
    quality_at_label,
    sum_rows,
    sums_by_label,
)
from hyperfocal.losses._core.terms import (
    focal_slope,
    focal_term,
    soft_focal_derivative,
    soft_focal_term,
)
from hyperfocal.losses.kernels import Backend, fused_sum, serves
from hyperfocal.losses.roles import ClassificationLossConfig, QualityLoss
from hyperfocal.types import CategoryCounts


def equalized_quality_focal_loss(
    logits: Tensor,
    targets: Tensor,
    ratio: Tensor,
    *,
    quality: Tensor | None = None,
    gamma: float = 2.0,
    scale: float = 8.0,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
    backend: Backend = "auto",
) -> Tensor:
    """EQFL for given gradient ratios; `EqualizedQualityFocalLoss` accumulates them.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``).
        targets: as for `quality_focal_loss`.
        ratio: ``(K,)`` gradient ratios in [0, 1]; 1 is QFL.
        quality: as for `quality_focal_loss`.
        gamma: γ_b, the focusing parameter at ratio 1; above 0.
        scale: s, added to gamma at ratio 0.
        weight: extra factor, one per row or one per logit.
        reduction: "none", "sum" or "mean" (over what isn't ignored).
        normalizer: divides the result of "none" or "sum".
        channel_dim: dimension of the categories.
        backend: "auto" computes a sum over integer labels in one fused pass (see `kernels`),
            "plain" never does, "fused" does or raises.

    Returns:
        The logits' shape for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) values that don't fit.
        ConfigError: a setting out of range.
    """
    check_scalar(gamma, "gamma", low=MIN_GAMMA)
    check_scalar(scale, "scale")
    if serves(
        backend,
        logits,
        targets,
        weight=weight,
        reduction=reduction,
        normalizer=normalizer,
        channel_dim=channel_dim,
    ):
        settings = equalized_settings(ratio, None, gamma, scale, logits.shape[channel_dim])
        return fused_sum(
            logits, targets, settings, normalizer, quality=quality, channel_dim=channel_dim
        )[0]
    inputs = prepare(logits, targets, weight, channel_dim)
    focus, factor = focus_and_factor(inputs, ratio, gamma, scale)
    loss = one_vs_all_soft(inputs, quality, _positive, _negative, focus, factor)
    return reduce(loss, inputs, reduction, normalizer)


@torch.no_grad()
def equalized_quality_focal_gradients(
    logits: Tensor,
    targets: Tensor,
    ratio: Tensor,
    *,
    quality: Tensor | None = None,
    gamma: float = 2.0,
    scale: float = 8.0,
    normalizer: Number = 1.0,
) -> tuple[Tensor, Tensor]:
    """Absolute gradient of the summed loss, summed per category.

    Takes the arguments of `equalized_quality_focal_loss`.

    Returns:
        ``(K,)`` over the positives and ``(K,)`` over the negatives of each category.
    """
    inputs = prepare(logits.detach(), targets)
    focus, factor = focus_and_factor(inputs, ratio, gamma, scale)
    factor = factor / scalar_normalizer(normalizer)
    x, targets = inputs.logits, inputs.targets
    if targets.is_floating_point():
        slope = factor * soft_focal_derivative(x, targets, focus).abs()
        is_object = targets > 0
        return (
            sum_rows(torch.where(is_object, slope, 0.0), inputs),
            sum_rows(torch.where(is_object, 0.0, slope), inputs),
        )
    index, _ = label_index(targets, x.shape[-1])
    q = quality_at_label(inputs, quality)
    positive = soft_focal_derivative(x.gather(-1, index), q, at_label(focus, index)).abs()
    return sums_by_label(
        inputs, at_label(factor, index) * positive, factor * focal_slope(-x, focus)
    )


def _positive(x: Tensor, q: Tensor, focus: Number, factor: Number) -> Tensor:
    return factor * soft_focal_term(x, q, focus)


def _negative(x: Tensor, focus: Number, factor: Number) -> Tensor:
    return factor * focal_term(-x, focus)


class EqualizedQualityFocalLoss(GradientRatioLoss, QualityLoss):
    """Equalized quality focal loss that accumulates its own gradient ratios.

    ``forward`` returns the summed loss and stores the statistics of the call as pending; `step`,
    called once per optimizer step, adds them to the state (see `GradientRatioLoss`).

    Args:
        num_classes: K.
        backend: see `sigmoid_focal_loss`.
        gamma, scale: see `Config`.
    """

    plain: ClassVar[str] = "quality focal loss"
    favours_positives: ClassVar[tuple[str, ...]] = ("gamma",)

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `EqualizedQualityFocalLoss`."""

        kind: ClassVar[str] = "eqfl"

        gamma: float = 2.0
        """Focusing parameter of a category with balanced gradients (γ_b)."""
        scale: float = 8.0
        """Added to gamma for a category without positive gradient; 0 is quality focal loss."""

        def __post_init__(self) -> None:
            self._require(self.gamma >= MIN_GAMMA, "gamma", "above 0")
            self._require(self.scale >= 0, "scale", "at least 0")

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> EqualizedQualityFocalLoss:
            """The loss for ``num_classes`` categories; ``counts`` isn't used."""
            return EqualizedQualityFocalLoss(num_classes, **self.arguments())

    def __init__(
        self,
        num_classes: int,
        gamma: float = 2.0,
        scale: float = 8.0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(num_classes, start=1.0, most=1.0)
        self.gamma = gamma
        self.scale = scale
        self.backend = backend

    @property
    def equalizes(self) -> bool:
        """See `GradientRatioLoss`; with a scale of 0 this is quality focal loss."""
        return self.scale != 0

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
        if serves(self.backend, logits, targets, normalizer=normalizer):
            loss, sums = fused_sum(
                logits,
                targets,
                equalized_settings(self.ratio, None, self.gamma, self.scale, logits.shape[-1]),
                normalizer,
                quality=quality,
                sums=self.training,
            )
            if self.training:
                self.remember(*sums)
            return loss
        loss = equalized_quality_focal_loss(
            logits,
            targets,
            self.ratio,
            quality=quality,
            gamma=self.gamma,
            scale=self.scale,
            reduction="sum",
            normalizer=normalizer,
            backend="plain",
        )
        if self.training:
            self.remember(
                *equalized_quality_focal_gradients(
                    logits,
                    targets,
                    self.ratio,
                    quality=quality,
                    gamma=self.gamma,
                    scale=self.scale,
                    normalizer=normalizer,
                )
            )
        return loss
