"""Gradient harmonizing mechanism for box regression (GHM-R).

Formula, with d = pred - target, and bins and counts as for `ghm_classification_loss`:

    ASL1(d) = sqrt(d² + μ²) - μ,   g = |d| / sqrt(d² + μ²)
    GHM-R   = (1/n) Σ ASL1(d) / R_bin(g)

Gradient with respect to the prediction: d / sqrt(d² + μ²) times the weight 1 / (n R), a constant.

Source: Gradient Harmonized Single-stage Detector (Li et al., AAAI 2019): M = 10, momentum 0.7,
μ = 0.02, loss weight 10.

Use it together with GHM for classification. Unlike smooth L1, whose gradient is ±1 for all large
errors, g distinguishes outliers from large errors, and outliers are down-weighted.

It stands alone: it has no ``kind`` for ``model.box_loss``, because it divides by its own counts and
not by the detector's normalizer. Call it in a loop of your own, and ``step()`` after each optimizer
step.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_scalar
from hyperfocal.losses._core.inputs import Inputs, Reduction, prepare_boxes, reduce
from hyperfocal.losses.ghm import SmoothedCounts, harmonising_weights, histogram
from hyperfocal.losses.roles import BoxLoss

MIN_MU = 1e-12
"""Smallest mu allowed, because the gradient norm is divided by mu where the error is 0."""


def ghm_regression_loss(
    pred: Tensor,
    target: Tensor,
    *,
    mu: float = 0.02,
    bins: int = 10,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
) -> Tensor:
    """Smoothed L1 harmonised by the gradient norms of this call.

    Args:
        pred: ``(..., 4)`` encoded deltas.
        target: the same shape.
        mu: where the loss changes from quadratic to linear; above 0.
        bins: M.
        weight: extra factor, one per row or one per coordinate; elements of weight 0 aren't
            counted.
        reduction: "none", "sum", or "mean", which is the paper's loss.
        normalizer: divides the result of "none" or "sum".

    Returns:
        The shape of ``pred`` for "none", else a scalar.

    Raises:
        DataError: shapes that differ.
        ConfigError: a setting out of range.
    """
    check_scalar(mu, "mu", low=MIN_MU)
    inputs = prepare_boxes(pred, target, weight)
    loss, index, counts = _regression_terms(inputs, mu, bins)
    return reduce(loss * harmonising_weights(index, counts, counts), inputs, reduction, normalizer)


def _regression_terms(inputs: Inputs, mu: float, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    distance = inputs.logits - inputs.targets
    length = torch.hypot(distance, torch.full_like(distance, mu))
    loss = distance * (distance / (length + mu))  # = length - mu without its cancellation
    return loss, *histogram((distance.abs() / length).detach(), inputs, bins)


class GHMRegressionLoss(SmoothedCounts, BoxLoss):
    """GHM-R with counts smoothed over steps; the mean of the harmonised distance.

    It stands alone: no setting of a detector selects it. Call ``step()`` after each optimizer step.

    Args:
        mu: where the loss changes from quadratic to linear.
        bins: M.
        momentum: fraction of the old counts kept; 0 uses only this step's.
    """

    on_boxes: ClassVar[bool] = False
    """Takes encoded deltas, not boxes."""

    def __init__(self, mu: float = 0.02, bins: int = 10, momentum: float = 0.7) -> None:
        super().__init__(bins, momentum)
        check_scalar(mu, "mu", low=MIN_MU)
        self.mu = mu

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        normalizer: Number = 1.0,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Scalar: Σ weight·ASL1 / (S_bin n) over ``(..., 4)`` deltas.

        The ``normalizer`` isn't used, because GHM divides by its own counts.
        """
        inputs = prepare_boxes(pred, target, weight)
        loss, index, counts = _regression_terms(inputs, self.mu, self.bins)
        loss = loss * self.element_weights(index, counts)
        return reduce(loss, inputs, "sum", counts.sum().clamp(min=1))
