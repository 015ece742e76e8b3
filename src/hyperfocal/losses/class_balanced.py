"""Weights from category counts: effective number of samples, and inverse frequency.

Formula, for a category with n_c samples among C categories:

    effective number   E_c = (1 - β^n_c) / (1 - β)           w_c ∝ 1 / E_c
    inverse frequency  w_c ∝ n_c^-power
    both scaled so that Σ_c w_c = C

β = 0 gives all categories the same weight and β → 1 is inverse frequency. A category without
samples is treated as if it had one.

The *class-balanced focal loss* takes the weight of a row from its label and applies it to all K
logits of the row, in place of alpha. Background rows have weight 1 (our choice: the paper has
none). Its gradient is that of focal loss times the weight.

Source: Class-Balanced Loss Based on Effective Number of Samples (Cui et al., CVPR 2019):
β in {0.9, 0.99, 0.999, 0.9999}, γ in {0.5, 1, 2}.

Use the weights with any loss here: ``weight=weights[labels]`` per row, or ``alpha=weights`` of
`softmax_focal_loss`. They help where most rows are objects; they are static, and can worsen
calibration. In a dense detector rare categories suffer mostly from the background, whose weight
doesn't change, and boxes of frequent categories get a lower weight than background (measured:
docs/results/long_tail.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfocal.losses._core.checks import Number, check_scalar, integer_labels
from hyperfocal.losses._core.counts import require_counts
from hyperfocal.losses.focal import sigmoid_focal_loss
from hyperfocal.losses.roles import ClassificationLossConfig
from hyperfocal.types import CategoryCounts, ConfigError


def class_balanced_weights(counts: Sequence[int] | Tensor, beta: float = 0.999) -> Tensor:
    """Weights by the effective number of samples, summing to the number of categories.

    Args:
        counts: samples per category, such as `CategoryCounts.instances`.
        beta: in [0, 1); 0 gives equal weights, towards 1 it becomes inverse frequency.

    Returns:
        ``(K,)`` float32.

    Raises:
        ConfigError: beta outside [0, 1), or negative counts.

    Examples:
        >>> from hyperfocal.losses import class_balanced_weights
        >>> class_balanced_weights([1000, 100, 10], beta=0.999)
        tensor([0.0422, 0.2800, 2.6778])
    """
    n = _counts(counts)
    if not 0 <= beta < 1:
        raise ConfigError(f"beta = {beta!r}, but it must be in [0, 1)")
    return _scaled((1 - beta) / (1 - beta**n))


def inverse_frequency_weights(counts: Sequence[int] | Tensor, power: float = 1.0) -> Tensor:
    """Weights by inverse frequency, summing to the number of categories.

    Args:
        counts: samples per category.
        power: 1 for inverse frequency, 0.5 for its square root, 0 for equal weights.

    Returns:
        ``(K,)`` float32.

    Raises:
        ConfigError: a negative power or negative counts.
    """
    check_scalar(power, "power")
    return _scaled(_counts(counts) ** -power)


def _counts(counts: Sequence[int] | Tensor) -> Tensor:
    n = torch.as_tensor(counts, dtype=torch.float64)
    if n.ndim != 1 or n.numel() == 0 or bool((n < 0).any()):
        raise ConfigError(f"counts = {counts!r}, but must be one number >= 0 per category")
    return n.clamp(min=1)


def _scaled(weights: Tensor) -> Tensor:
    return (weights * (len(weights) / weights.sum())).float()


class ClassBalancedFocalLoss(nn.Module):
    """Focal loss weighted by the label's `class_balanced_weights`, summed over a normalizer.

    Args:
        weights: ``(K,)``, one per category; background rows have weight 1.
        gamma: see `Config`.
    """

    weights: Tensor

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `ClassBalancedFocalLoss`."""

        kind: ClassVar[str] = "cb_focal"

        beta: float = 0.999
        """In [0, 1): 0 gives equal weights, towards 1 it becomes inverse frequency."""
        gamma: float = 2.0
        """Focusing parameter; 0 is cross entropy."""

        def __post_init__(self) -> None:
            self._require(0 <= self.beta < 1, "beta", "in [0, 1)")
            self._require(self.gamma >= 0, "gamma", "at least 0")

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> ClassBalancedFocalLoss:
            """The loss, with weights from the training split's boxes per category."""
            instances = require_counts(counts, num_classes, self.kind).instances
            weights = class_balanced_weights(instances, self.beta)
            return ClassBalancedFocalLoss(**self.arguments("beta", weights=weights))

    def __init__(self, weights: Tensor, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over all logits ``(..., K)`` that aren't ignored, over ``normalizer``.

        ``targets`` are integer labels.
        """
        k = len(self.weights)
        if logits.shape[-1:] != self.weights.shape:
            raise ConfigError(
                f"weights has {k} categories, but the logits are {tuple(logits.shape)}"
            )
        targets = integer_labels(targets, k)
        is_category = (targets >= 0) & (targets < k)
        weight = torch.where(is_category, self.weights[targets.clamp(0, k - 1)], 1.0)
        return sigmoid_focal_loss(
            logits,
            targets,
            alpha=None,
            gamma=self.gamma,
            weight=weight,
            reduction="sum",
            normalizer=normalizer,
        )
