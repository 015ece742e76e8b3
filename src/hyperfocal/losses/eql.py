"""Equalization loss (EQL): objects of other categories aren't negatives of rare categories.

Formula, with y_j = 1 at the label of row r:

    w_j = 1 - E(r) T_j (1 - y_j)
    EQL = Σ_j w_j CE(x_j)

E(r) is 1 where the row is an object of some category and 0 for background; T_j is 1 where category
j is rare, that is, occurs in less than a fraction λ of the training images.

Gradient with respect to the logit: w_j (σ(x_j) - y_j).

Source: Equalization Loss (Tan et al., CVPR 2020), sigmoid form, and its released code: λ = 0.00177
for LVIS v0.5, 0.0011 for v1.

Use it for the classifier of a two-stage detector, where most rows are objects. In a dense detector
nearly all rows are background, which stays a negative of every category: see `equalized_focal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfocal.losses._core.checks import Number, check_scalar
from hyperfocal.losses._core.counts import require_counts
from hyperfocal.losses._core.inputs import Reduction, prepare, reduce
from hyperfocal.losses._core.one_vs_all import label_index, one_vs_all
from hyperfocal.losses._core.terms import cross_entropy_term
from hyperfocal.losses.roles import ClassificationLossConfig
from hyperfocal.types import CategoryCounts, ConfigError


def rare_categories(counts: CategoryCounts, threshold: float = 0.0011) -> Tensor:
    """``(K,)`` bool: categories in less than a fraction ``threshold`` of the training images.

    Raises:
        ConfigError: a threshold outside [0, 1].
    """
    check_scalar(threshold, "threshold", 0, 1)
    images = torch.tensor(counts.images, dtype=torch.float64)
    return images / max(counts.num_images, 1) < threshold


def equalization_loss(
    logits: Tensor,
    targets: Tensor,
    rare: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
) -> Tensor:
    """Cross entropy without objects of other categories as negatives of the rare ones.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``).
        targets: as for `sigmoid_cross_entropy`; with float targets a row is an object where any
            of its targets is above 0.
        rare: ``(K,)`` bool, from `rare_categories`.
        weight: extra factor, one per row or one per logit.
        reduction: "none", "sum" or "mean" (over what isn't ignored).
        normalizer: divides the result of "none" or "sum"; the number of rows in the paper.
        channel_dim: dimension of the categories.

    Returns:
        The logits' shape for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit.
        ConfigError: ``rare`` of another shape, an unknown reduction or a bad normalizer.
    """
    inputs = prepare(logits, targets, weight, channel_dim)
    k = inputs.logits.shape[-1]
    if rare.shape != (k,) or rare.dtype != torch.bool:
        raise ConfigError(f"rare is {rare.dtype} {tuple(rare.shape)}, but it must be bool ({k},)")
    loss = one_vs_all(inputs, cross_entropy_term)
    if inputs.targets.is_floating_point():
        is_object = (inputs.targets > 0).any(-1, keepdim=True)
        factor = 1 - (is_object & rare) * (1 - inputs.targets)
        return reduce(loss * factor, inputs, reduction, normalizer)
    index, is_object = label_index(inputs.targets, k)
    silenced = (is_object & rare).scatter(-1, index, False)
    return reduce(torch.where(silenced, 0.0, loss), inputs, reduction, normalizer)


class EqualizationLoss(nn.Module):
    """`equalization_loss`, summed and divided by a normalizer.

    Args:
        rare: ``(K,)`` bool, from `rare_categories`.
    """

    rare: Tensor

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `EqualizationLoss`."""

        kind: ClassVar[str] = "eql"

        threshold: float = 0.0011
        """Categories in less than this fraction of the training images are rare."""

        def __post_init__(self) -> None:
            self._require(0 <= self.threshold <= 1, "threshold", "in [0, 1]")

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> EqualizationLoss:
            """The loss; rare categories are found from the counts of the training split."""
            return EqualizationLoss(
                rare_categories(require_counts(counts, num_classes, self.kind), self.threshold)
            )

    def __init__(self, rare: Tensor) -> None:
        super().__init__()
        self.register_buffer("rare", rare)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over all logits ``(..., K)`` that aren't ignored, over ``normalizer``."""
        return equalization_loss(logits, targets, self.rare, reduction="sum", normalizer=normalizer)
