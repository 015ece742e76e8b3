"""Equalized focal loss (EFL): focal loss with a separate focusing parameter per category.

Formula, for category j with its gradient ratio g_j in [0, 1]:

    γ_j = γ_b + s (1 - g_j)
    EFL = - Σ_j α_t (γ_j / γ_b) (1 - p_t)^γ_j log p_t

g_j is the category's accumulated positive gradient over its accumulated negative gradient, clamped
to [0, 1]. A rare category has almost only negatives: g_j is near 0 and γ_j near γ_b + s, so its
many easy negatives contribute little, while the factor γ_j/γ_b keeps the loss of its hard examples.
With all g_j = 1, or s = 0, it is focal loss.

Gradient with respect to the logit, g_j held constant:

    y α_t (γ_j / γ_b) (1 - p_t)^γ_j (γ_j p_t log p_t + p_t - 1)

Its absolute value, including the normalizer, is accumulated: separately over a category's positives
and over everything else (positives of other categories are its negatives). The first statistics
replace the initial g = 1 at once, so a category not seen yet drops to g = 0; the paper uses a
longer warm-up (6000 iterations) for this reason.

Source: Equalized Focal Loss paper (Li et al., CVPR 2022), eq. 2-4, and its released code, which
reads the gradients with a backward hook on the last convolution. Here they are computed from the
logits in the forward pass, so they don't depend on gradient accumulation, shared heads or half
precision.

The accumulated ratio tends to 1 as training converges: at a stationary point the gradient of a
category's bias, positives minus negatives, is zero. It stays below 1 for a category whose bias
decreases from the prior throughout training, and above 1 (clamped to 1: focal loss) for one whose
bias increases. ``ratio_of="cross_entropy"`` compares |p - y| instead, which doesn't tend to 1; on a
small dataset all ratios went to 0 (docs/long_tail.md).

Use it for long-tailed categories in a one-stage detector, with a small prior (0.001). On balanced
data it is focal loss at a slightly higher cost. Don't compare runs with different normalizers: the
statistics include the normalizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_choice, check_scalar, scalar_normalizer
from hyperfocal.losses._core.equalized_focus import (
    MIN_GAMMA,
    Factors,
    equalized_settings,
    focus_and_factor,
)
from hyperfocal.losses._core.inputs import Inputs, Reduction, prepare, reduce
from hyperfocal.losses._core.memory import GradientRatioLoss
from hyperfocal.losses._core.one_vs_all import balance, one_vs_all, one_vs_all_sums, times
from hyperfocal.losses._core.terms import cross_entropy_slope, focal_slope, focal_term
from hyperfocal.losses.alpha import MUST, Alpha, as_number, is_alpha, keep_alpha
from hyperfocal.losses.focal import sigmoid_focal_loss
from hyperfocal.losses.kernels import Backend, Settings, focal_settings, fused_sum, serves
from hyperfocal.losses.roles import ClassificationLossConfig, StreamableLoss
from hyperfocal.types import CategoryCounts

RatioOf = Literal["own", "cross_entropy"]
"""The absolute gradients that the ratios compare: those of this loss, as in the released code, or
those of cross entropy, |p - y|, as in EQLv2."""


def equalized_focal_loss(
    logits: Tensor,
    targets: Tensor,
    ratio: Tensor,
    *,
    alpha: Number | None = 0.25,
    gamma: float = 2.0,
    scale: float = 8.0,
    factors: Factors = "both",
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
    backend: Backend = "auto",
) -> Tensor:
    """Equalized focal loss for given gradient ratios; `EqualizedFocalLoss` accumulates them.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``), any float dtype;
            float16 and bfloat16 are computed and returned in float32.
        targets: as for `sigmoid_focal_loss`.
        ratio: ``(K,)`` gradient ratios in [0, 1]; 1 is focal loss.
        alpha: weight of positives; negatives get ``1 - alpha``. None: 1 for both.
        gamma: γ_b, the focusing parameter at ratio 1; above 0.
        scale: s, added to gamma at ratio 0.
        factors: what depends on the ratios, see `Factors`.
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
    check_scalar(gamma, "gamma", low=MIN_GAMMA)
    check_scalar(scale, "scale")
    if scale == 0:  # bit-identical to focal loss
        return sigmoid_focal_loss(
            logits,
            targets,
            alpha=alpha,
            gamma=gamma,
            weight=weight,
            reduction=reduction,
            normalizer=normalizer,
            channel_dim=channel_dim,
            backend=backend,
        )
    if serves(
        backend,
        logits,
        targets,
        weight=weight,
        reduction=reduction,
        normalizer=normalizer,
        channel_dim=channel_dim,
    ):
        categories = logits.shape[channel_dim]
        settings = equalized_settings(ratio, alpha, gamma, scale, categories, factors)
        return fused_sum(logits, targets, settings, normalizer, channel_dim=channel_dim)[0]
    inputs = prepare(logits, targets, weight, channel_dim)
    focus, own, rest = _per_category(inputs, ratio, alpha, gamma, scale, factors)
    loss = one_vs_all(inputs, focal_term, focus, own=own, rest=rest)
    return reduce(loss, inputs, reduction, normalizer)


def equalized_focal_gradients(
    logits: Tensor,
    targets: Tensor,
    ratio: Tensor,
    *,
    alpha: Number | None = 0.25,
    gamma: float = 2.0,
    scale: float = 8.0,
    factors: Factors = "both",
    normalizer: Number = 1.0,
) -> tuple[Tensor, Tensor]:
    """Absolute gradient of the summed loss, summed per category.

    Takes the arguments of `equalized_focal_loss`.

    Returns:
        ``(K,)`` over the positives and ``(K,)`` over the negatives of each category.
    """
    inputs = prepare(logits.detach(), targets)
    focus, own, rest = _per_category(inputs, ratio, alpha, gamma, scale, factors)
    positive, negative = one_vs_all_sums(inputs, focal_slope, focus, own=own, rest=rest)
    normalizer = scalar_normalizer(normalizer)
    return positive / normalizer, negative / normalizer


def cross_entropy_gradients(
    logits: Tensor, targets: Tensor, normalizer: Number = 1.0
) -> tuple[Tensor, Tensor]:
    """|p - y| over the normalizer, summed per category over positives and over negatives."""
    inputs = prepare(logits.detach(), targets)
    positive, negative = one_vs_all_sums(inputs, cross_entropy_slope)
    normalizer = scalar_normalizer(normalizer)
    return positive / normalizer, negative / normalizer


def _per_category(
    inputs: Inputs,
    ratio: Tensor,
    alpha: Number | None,
    gamma: float,
    scale: float,
    factors: Factors,
) -> tuple[Tensor, Tensor, Tensor]:
    """Focusing parameter, and factors of positives and negatives, each ``(K,)``."""
    focus, factor = focus_and_factor(inputs, ratio, gamma, scale, factors)
    positive, negative = balance(alpha, inputs.logits)
    return focus, times(factor, positive), times(factor, negative)


class EqualizedFocalLoss(GradientRatioLoss, StreamableLoss):
    """Equalized focal loss that accumulates its own gradient ratios.

    ``forward`` returns the summed loss and stores the statistics of the call as pending; `step`,
    called once per optimizer step, adds them to the state (see `GradientRatioLoss`).

    Args:
        num_classes: K.
        backend: see `sigmoid_focal_loss`.
        alpha, gamma, scale, factors, ratio_of: see `Config`.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import EqualizedFocalLoss
        >>> loss = EqualizedFocalLoss(num_classes=3)
        >>> logits = torch.zeros(100, 3, requires_grad=True)
        >>> labels = torch.full((100,), 3)  # background, but for one object of category 0
        >>> labels[0] = 0
        >>> loss(logits, labels, normalizer=1.0).backward()
        >>> loss.step()  # after optimizer.step()
        >>> loss.ratio
        tensor([0.0034, 0.0000, 0.0000])
    """

    favours_positives: ClassVar[tuple[str, ...]] = ("alpha", "gamma")

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `EqualizedFocalLoss`."""

        by_category: ClassVar[tuple[str, ...]] = ("alpha",)
        kind: ClassVar[str] = "efl"

        alpha: Alpha = 0.25
        """Weight of positives, negatives get 1 - alpha; none: 1 for both. By category:
        cat=0.5,dog=0.2 or a file of such pairs."""
        gamma: float = 2.0
        """Focusing parameter of a category with balanced gradients (γ_b)."""
        scale: float = 8.0
        """Added to gamma for a category without positive gradient (s); 0 is focal loss."""
        factors: Factors = "both"
        """What depends on the ratios: gamma and the weight factor (both), or only one of them, as
        in the ablation of the paper's Table 3."""
        ratio_of: RatioOf = "own"
        """The gradients that the ratios compare: those of this loss (as in the released code), or
        those of cross entropy, which don't depend on gamma. The latter is experimental: all ratios
        may go to 0."""

        def __post_init__(self) -> None:
            self._require(is_alpha(self.alpha), "alpha", f"{MUST}, or none")
            self._require(self.gamma >= MIN_GAMMA, "gamma", "above 0")
            self._require(self.scale >= 0, "scale", "at least 0")

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> EqualizedFocalLoss:
            """The loss for ``num_classes`` categories; ``counts`` isn't used."""
            return EqualizedFocalLoss(
                num_classes, **self.arguments(alpha=as_number(self.alpha, num_classes))
            )

    alpha: Number | None

    def __init__(
        self,
        num_classes: int,
        alpha: Number | None = 0.25,
        gamma: float = 2.0,
        scale: float = 8.0,
        factors: Factors = "both",
        ratio_of: RatioOf = "own",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(num_classes, start=1.0, most=1.0)
        keep_alpha(self, alpha)
        self.gamma = gamma
        self.scale = scale
        self.factors = factors
        check_choice(ratio_of, "ratio_of", RatioOf)
        self.ratio_of = ratio_of
        self.backend = backend

    @property
    def equalizes(self) -> bool:
        """See `GradientRatioLoss`; with a scale of 0 this is focal loss."""
        return self.scale != 0

    def settings(self, num_classes: int) -> Settings:
        """See `StreamableLoss`."""
        return equalized_settings(
            self.ratio, self.alpha, self.gamma, self.scale, num_classes, self.factors
        )

    def statistics(self, num_classes: int) -> Settings | None:
        """Settings of the loss whose gradients are summed; None: this loss."""
        return None if self.ratio_of == "own" else focal_settings(None, 0.0, num_classes)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over all logits ``(..., K)`` that aren't ignored, over ``normalizer``."""
        categories = logits.shape[-1]
        # This class's settings, not a subclass's: the plain form below ignores those too.
        other = EqualizedFocalLoss.statistics(self, categories) if self.training else None
        if serves(self.backend, logits, targets, normalizer=normalizer):
            own_sums = self.training and other is None
            settings = EqualizedFocalLoss.settings(self, categories)
            loss, sums = fused_sum(logits, targets, settings, normalizer, sums=own_sums)
            if other is not None:
                sums = fused_sum(logits.detach(), targets, other, normalizer, sums=True)[1]
            if self.training:
                self.remember(*sums)
            return loss
        alpha, gamma, scale, factors = self.alpha, self.gamma, self.scale, self.factors
        loss = equalized_focal_loss(
            logits,
            targets,
            self.ratio,
            alpha=alpha,
            gamma=gamma,
            scale=scale,
            factors=factors,
            reduction="sum",
            normalizer=normalizer,
            backend="plain",
        )
        if other is not None:
            self.remember(*cross_entropy_gradients(logits, targets, normalizer))
        elif self.training:
            self.remember(
                *equalized_focal_gradients(
                    logits,
                    targets,
                    self.ratio,
                    alpha=alpha,
                    gamma=gamma,
                    scale=scale,
                    factors=factors,
                    normalizer=normalizer,
                )
            )
        return loss
