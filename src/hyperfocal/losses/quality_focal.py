"""Quality focal loss (QFL): focal loss whose target is the quality of the predicted box.

Formula, with p = σ(x) and q = IoU of the predicted box with its object at the label of a positive,
0 everywhere else:

    QFL = |q - p|^β (-q log p - (1 - q) log(1 - p))

Gradient with respect to the logit, q held constant:

    |q - p|^β (p - q) + β |q - p|^(β-1) sign(p - q) p (1 - p) (-q log p - (1 - q) log(1 - p))

With q = 1 it is focal loss without alpha, γ = β.

Source: Generalized Focal Loss (Li et al., NeurIPS 2020): β = 2, normalised by the positives.

Use it where detections are ranked by the classification score alone: the score also learns the IoU,
so no centerness or IoU branch is needed. Compute the quality from the current prediction (it is
detached here).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hyperfocal.losses._core.checks import Number, per_category
from hyperfocal.losses._core.inputs import Reduction, prepare, reduce
from hyperfocal.losses._core.one_vs_all import one_vs_all_soft
from hyperfocal.losses._core.terms import focal_term, soft_focal_term
from hyperfocal.losses.kernels import Backend, focal_settings, fused_sum, serves
from hyperfocal.losses.roles import ClassificationLossConfig, QualityLoss
from hyperfocal.types import CategoryCounts


def quality_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    quality: Tensor | None = None,
    beta: Number = 2.0,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
    backend: Backend = "auto",
) -> Tensor:
    """``|q - p|^β CE(p, q)``.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``).
        targets: integer labels (``0..K-1``, ``K`` background, ``-1`` ignored), or the qualities
            themselves as floats of the logits' shape.
        quality: with integer labels, ``(...)`` in [0, 1]: q at each row's label, read only where
            the row is an object. None: 1. No gradient flows into it.
        beta: focusing parameter, at least 0; a number or one value per category.
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
    if serves(
        backend,
        logits,
        targets,
        weight=weight,
        reduction=reduction,
        normalizer=normalizer,
        channel_dim=channel_dim,
    ):
        settings = focal_settings(None, beta, logits.shape[channel_dim])
        return fused_sum(
            logits, targets, settings, normalizer, quality=quality, channel_dim=channel_dim
        )[0]
    inputs = prepare(logits, targets, weight, channel_dim)
    beta = per_category(beta, "beta", inputs.logits)
    loss = one_vs_all_soft(inputs, quality, soft_focal_term, _negative, beta)
    return reduce(loss, inputs, reduction, normalizer)


def _negative(x: Tensor, beta: Number) -> Tensor:
    return focal_term(-x, beta)


class QualityFocalLoss(QualityLoss):
    """`quality_focal_loss`, summed and divided by a normalizer.

    Args:
        backend: see `quality_focal_loss`.
        beta: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `QualityFocalLoss`."""

        kind: ClassVar[str] = "qfl"

        beta: float = 2.0
        """Focusing parameter; 0 is cross entropy with the IoU as soft label."""

        def __post_init__(self) -> None:
            self._require(self.beta >= 0, "beta", "at least 0")

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> QualityFocalLoss:
            """The loss; ``num_classes`` and ``counts`` aren't used."""
            return QualityFocalLoss(**self.arguments())

    def __init__(self, beta: float = 2.0, backend: Backend = "auto") -> None:
        super().__init__()
        self.beta = beta
        self.backend = backend

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
        return quality_focal_loss(
            logits,
            targets,
            quality=quality,
            beta=self.beta,
            reduction="sum",
            normalizer=normalizer,
            backend=self.backend,
        )
