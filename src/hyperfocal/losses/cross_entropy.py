"""Sigmoid (binary, one-vs-all) cross entropy, with or without alpha balance.

Formula, with p_t = σ(x_t), x_t = x for a positive and -x for a negative:

    CE = -log p_t            α-CE = -α_t log p_t,   α_t = α for a positive, 1 - α for a negative

Gradient with respect to the logit: y (p_t - 1), times α_t.

Source: focal-loss paper (Lin et al., ICCV 2017), eq. 1-3 and 9.

Use it where positives and negatives are within about 1:10 of each other, or labels are noisy.
Don't use it alone in a dense detector: with one object in a thousand anchors the easy negatives
make up nearly all of the sum (the best result in the paper is 31.1 AP with α = 0.75, against 34.0
for focal loss).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hyperfocal.losses._core.checks import Number
from hyperfocal.losses._core.inputs import Reduction, prepare, reduce
from hyperfocal.losses._core.one_vs_all import balance, one_vs_all
from hyperfocal.losses._core.terms import cross_entropy_term
from hyperfocal.losses.alpha import MUST, Alpha, as_number, is_alpha, keep_alpha
from hyperfocal.losses.kernels import Backend, Settings, focal_settings, fused_sum, serves
from hyperfocal.losses.roles import ClassificationLossConfig, StreamableLoss
from hyperfocal.types import CategoryCounts


def sigmoid_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: Number | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
    backend: Backend = "auto",
) -> Tensor:
    """Cross entropy of independent sigmoids, ``-α_t log p_t``.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``), any float dtype;
            float16 and bfloat16 are computed and returned in float32.
        targets: integer labels of the logits' shape without the categories (``0..K-1`` a category,
            ``K`` background: no positive, ``-1`` ignored), or floats in [0, 1] of the logits'
            shape, or 0/1 integers or bools of the logits' shape (-1 ignored).
        alpha: weight of positives; negatives get ``1 - alpha``. A number or one value per category.
            None: 1 for both.
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
        ConfigError: alpha outside [0, 1], an unknown reduction, a bad normalizer,
            or "fused" where the fused form doesn't apply.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import sigmoid_cross_entropy
        >>> logits = torch.zeros(3, 2)
        >>> labels = torch.tensor([0, 2, -1])  # category 0, background, ignored
        >>> sigmoid_cross_entropy(logits, labels, reduction="sum")  # 4 log 2
        tensor(2.7726)
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
        settings = focal_settings(alpha, 0.0, logits.shape[channel_dim])
        return fused_sum(logits, targets, settings, normalizer, channel_dim=channel_dim)[0]
    inputs = prepare(logits, targets, weight, channel_dim)
    own, rest = balance(alpha, inputs.logits)
    loss = one_vs_all(inputs, cross_entropy_term, own=own, rest=rest)
    return reduce(loss, inputs, reduction, normalizer)


class SigmoidCrossEntropyLoss(StreamableLoss):
    """`sigmoid_cross_entropy`, summed and divided by a normalizer.

    Args:
        backend: see `sigmoid_cross_entropy`.
        alpha: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `SigmoidCrossEntropyLoss`."""

        by_category: ClassVar[tuple[str, ...]] = ("alpha",)
        kind: ClassVar[str] = "ce"

        alpha: Alpha = None
        """Weight of positives, negatives get 1 - alpha; none: 1 for both. By category:
        cat=0.5,dog=0.2 or a file of such pairs."""

        def __post_init__(self) -> None:
            self._require(is_alpha(self.alpha), "alpha", f"{MUST}, or none")

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> SigmoidCrossEntropyLoss:
            """The loss for ``num_classes`` categories."""
            return SigmoidCrossEntropyLoss(
                **self.arguments(alpha=as_number(self.alpha, num_classes))
            )

    alpha: Number | None

    def __init__(self, alpha: Number | None = None, backend: Backend = "auto") -> None:
        super().__init__()
        keep_alpha(self, alpha)
        self.backend = backend

    def settings(self, num_classes: int) -> Settings:
        """See `StreamableLoss`."""
        return focal_settings(self.alpha, 0.0, num_classes)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over all logits ``(..., K)`` that aren't ignored, over ``normalizer``."""
        return sigmoid_cross_entropy(
            logits,
            targets,
            alpha=self.alpha,
            reduction="sum",
            normalizer=normalizer,
            backend=self.backend,
        )
