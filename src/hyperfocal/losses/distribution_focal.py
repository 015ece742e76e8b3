"""Distribution focal loss (DFL): a box side as a distribution over distances.

Formula, for a distance t (in units of the stride) between the integers i and i + 1, and the softmax
S over the bins 0..n:

    DFL = -[(i + 1 - t) log S_i + (t - i) log S_{i+1}]
    predicted distance = Σ_k k·S_k        (`expected_distance`)

Gradient with respect to logit k: S_k minus the two-bin target.

Source: Generalized Focal Loss (Li et al., NeurIPS 2020): n = 16, t clipped to [0, n - 0.1], loss
weight 0.25, averaged over the four sides.

Use it where object borders are ambiguous (occlusion, blur, shadow): the spread of the distribution
is the uncertainty of a side. It needs 4 (n + 1) box outputs instead of 4, and distances above n
strides can't be represented.

It stands alone: no detector of this package has 4 (n + 1) box outputs, so no setting selects it.
Call it in a head of your own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperfocal.losses._core.checks import Number, check_range
from hyperfocal.losses._core.inputs import Reduction, prepare_softmax, reduce_rows
from hyperfocal.types import DataError

CLIP = 0.1
"""Distances are clipped to this much below the last bin, so that they have a bin on both sides."""


def distribution_focal_loss(
    logits: Tensor,
    distances: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
) -> Tensor:
    """Cross entropy with the two bins around the true distance.

    Args:
        logits: ``(..., n + 1)``, one per bin.
        distances: ``(...)`` floats at least 0 in units of the stride; clipped to n - 0.1.
        weight: ``(...)``, extra factor per distance.
        reduction: "none", "sum" or "mean".
        normalizer: divides the result of "none" or "sum".

    Returns:
        ``(...)`` for "none", else a scalar; float32, or float64 for float64 input.

    Raises:
        DataError: shapes that don't fit, fewer than two bins, or (on the CPU) negative distances.
        ConfigError: an unknown reduction or a bad normalizer.
    """
    if distances.shape != logits.shape[:-1]:
        raise DataError(
            f"distances have shape {tuple(distances.shape)}, but the logits, bins last, have "
            f"{tuple(logits.shape)}"
        )
    check_range(distances, 0, float("inf"), "distances")
    if distances.dtype != torch.float64:
        distances = distances.float()  # bfloat16 would round the clipped value up to the last bin
    last = logits.shape[-1] - 1
    clipped = distances.clamp(0, max(last - CLIP, 0))
    left = clipped.floor().long()
    inputs = prepare_softmax(logits, left, weight)
    log_p = torch.log_softmax(inputs.logits, -1)
    share = (clipped - left).to(log_p.dtype)
    log_left = log_p.gather(-1, left.unsqueeze(-1)).squeeze(-1)
    log_right = log_p.gather(-1, left.unsqueeze(-1) + 1).squeeze(-1)
    loss = -(1 - share) * log_left - share * log_right
    return reduce_rows(loss, inputs, reduction, normalizer)


def expected_distance(logits: Tensor) -> Tensor:
    """Mean of the distribution, ``(..., n + 1) -> (...)``, in units of the stride."""
    p = torch.softmax(logits.float() if logits.dtype != torch.float64 else logits, -1)
    return p @ torch.arange(logits.shape[-1], dtype=p.dtype, device=p.device)


class DistributionFocalLoss(nn.Module):
    """`distribution_focal_loss`, summed and divided by a normalizer.

    It stands alone: no detector of this package predicts distributions, so no setting selects it.
    """

    def forward(
        self,
        logits: Tensor,
        distances: Tensor,
        normalizer: Number = 1.0,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Scalar: the sum over ``(...)`` distances, times ``weight``, over ``normalizer``."""
        return distribution_focal_loss(
            logits, distances, weight=weight, reduction="sum", normalizer=normalizer
        )
