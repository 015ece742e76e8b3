"""Sigmoid focal loss.

Formula, with p_t = σ(x_t), x_t = x for a positive and -x for a negative:

    FL = -α_t (1 - p_t)^γ log p_t,   α_t = α for a positive, 1 - α for a negative

Gradient with respect to the logit (the paper's eq. 10, times α_t):

    dFL/dx = y (1 - p_t)^γ (γ p_t log p_t + p_t - 1)

Its magnitude peaks a little above 1 (1.129 at p_t = 0.058 for γ = 2) and falls off like
(1 - p_t)^(γ+1), so easy examples contribute little. γ = 0 is cross entropy.

Source: focal-loss paper (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017), eq. 4-5,
10 and section 4.1.

Use it in dense detectors and segmentation, where there are 100 or more negatives per positive.
γ = 2 with α = 0.25 is best in the paper; *lower* α as γ increases, because focusing already
suppresses easy negatives. Don't use it alone for long-tailed categories (see `equalized_focal`),
with noisy labels (prefer γ ≤ 1 or cross entropy), or where the probabilities must be calibrated
(see `calibration`): the loss isn't proper and biases them towards 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hyperfocal.losses._core.checks import Number, per_category
from hyperfocal.losses._core.inputs import Reduction, prepare, reduce
from hyperfocal.losses._core.one_vs_all import balance, one_vs_all
from hyperfocal.losses._core.terms import focal_term
from hyperfocal.losses.alpha import MUST, Alpha, as_number, is_alpha, keep_alpha
from hyperfocal.losses.kernels import Backend, Settings, focal_settings, fused_sum, serves
from hyperfocal.losses.roles import ClassificationLossConfig, StreamableLoss
from hyperfocal.types import CategoryCounts


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: Number | None = 0.25,
    gamma: Number = 2.0,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
    backend: Backend = "auto",
) -> Tensor:
    """Focal loss of independent sigmoids, ``-α_t (1 - p_t)^γ log p_t``.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``), any float dtype;
            float16 and bfloat16 are computed and returned in float32.
        targets: integer labels of the logits' shape without the categories (``0..K-1`` a category,
            ``K`` background: no positive, ``-1`` ignored), or floats in [0, 1] of the logits'
            shape, or 0/1 integers or bools of the logits' shape (-1 ignored). A float target q
            gives the expected loss ``q·FL(1) + (1 - q)·FL(0)``.
        alpha: weight of positives; negatives get ``1 - alpha``. A number or one value per category.
            None: 1 for both.
        gamma: focusing parameter, at least 0; a number or one value per category.
        weight: extra factor, one per row or one per logit.
        reduction: "none", "sum" or "mean" (over what isn't ignored).
        normalizer: divides the result of "none" or "sum", such as the number of positives.
        channel_dim: dimension of the categories.
        backend: "auto" computes a sum over integer labels in one fused pass (see `kernels`),
            "plain" never does, "fused" does or raises.

    Returns:
        The logits' shape for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit.
        ConfigError: alpha outside [0, 1], negative gamma, an unknown reduction, a bad normalizer,
            or "fused" where the fused form doesn't apply.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import sigmoid_focal_loss
        >>> logits = torch.zeros(1000, 80, requires_grad=True)
        >>> labels = torch.full((1000,), 80)  # background
        >>> labels[:3] = torch.tensor([7, 7, 41])
        >>> loss = sigmoid_focal_loss(logits, labels, reduction="sum", normalizer=3)
        >>> loss.backward()
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
        settings = focal_settings(alpha, gamma, logits.shape[channel_dim])
        return fused_sum(logits, targets, settings, normalizer, channel_dim=channel_dim)[0]
    inputs = prepare(logits, targets, weight, channel_dim)
    own, rest = balance(alpha, inputs.logits)
    gamma = per_category(gamma, "gamma", inputs.logits)
    loss = one_vs_all(inputs, focal_term, gamma, own=own, rest=rest)
    return reduce(loss, inputs, reduction, normalizer)


class SigmoidFocalLoss(StreamableLoss):
    """`sigmoid_focal_loss`, summed and divided by a normalizer.

    Args:
        backend: see `sigmoid_focal_loss`.
        alpha, gamma: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `SigmoidFocalLoss`."""

        by_category: ClassVar[tuple[str, ...]] = ("alpha",)
        kind: ClassVar[str] = "focal"

        alpha: Alpha = 0.25
        """Weight of positives, negatives get 1 - alpha; none: 1 for both. By category:
        cat=0.5,dog=0.2 or a file of such pairs."""
        gamma: float = 2.0
        """Focusing parameter; 0 is cross entropy."""

        def __post_init__(self) -> None:
            self._require(is_alpha(self.alpha), "alpha", f"{MUST}, or none")
            self._require(self.gamma >= 0, "gamma", "at least 0")

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> SigmoidFocalLoss:
            """The loss for ``num_classes`` categories."""
            return SigmoidFocalLoss(**self.arguments(alpha=as_number(self.alpha, num_classes)))

    alpha: Number | None

    def __init__(
        self, alpha: Number | None = 0.25, gamma: float = 2.0, backend: Backend = "auto"
    ) -> None:
        super().__init__()
        keep_alpha(self, alpha)
        self.gamma = gamma
        self.backend = backend

    def settings(self, num_classes: int) -> Settings:
        """See `StreamableLoss`."""
        return focal_settings(self.alpha, self.gamma, num_classes)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over all logits ``(..., K)`` that aren't ignored, over ``normalizer``."""
        return sigmoid_focal_loss(
            logits,
            targets,
            alpha=self.alpha,
            gamma=self.gamma,
            reduction="sum",
            normalizer=normalizer,
            backend=self.backend,
        )
