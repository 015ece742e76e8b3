"""Gradient harmonizing mechanism (GHM): examples weighted by inverse density of gradient norms.

Formula, for classification, with g = |σ(x) - y| in M equal bins on [0, 1]:

    GHM-C = (1/n) Σ CE(x) / R_bin(g)

where R is the number of elements in a bin and n the number of non-empty bins: each non-empty bin
contributes its mean, so that neither the many easy negatives nor the outliers at g near 1 dominate.
The weights are constants: the gradient is that of cross entropy times the weight. With momentum m
the counts are smoothed over steps, S ← m S + (1 - m) R in the non-empty bins, starting from S = 0.

Source: Gradient Harmonized Single-stage Detector (Li et al., AAAI 2019): M = 30, m = 0.75,
gradients clipped at 35. For boxes see `ghm_regression`.

Use it where wrong labels would dominate focal loss: very hard examples are down-weighted too. There
is no γ or α to tune. The counts are accurate only with all logits of a step in one call, so small
batches and gradient accumulation degrade it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number
from hyperfocal.losses._core.inputs import Inputs, Reduction, prepare, reduce
from hyperfocal.losses._core.memory import keep_pending, take_pending, world_size
from hyperfocal.losses._core.one_vs_all import one_vs_all
from hyperfocal.losses._core.terms import cross_entropy_slope, cross_entropy_term
from hyperfocal.losses.roles import ClassificationLossConfig, LossWithMemory
from hyperfocal.types import CategoryCounts, ConfigError


def ghm_classification_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    bins: int = 30,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
) -> Tensor:
    """Cross entropy harmonised by the gradient norms of this call.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``).
        targets: as for `sigmoid_cross_entropy`.
        bins: M.
        weight: extra factor, one per row or one per logit; elements of weight 0 aren't counted.
        reduction: "none", "sum", or "mean" over what isn't ignored, which is the paper's loss.
        normalizer: divides the result of "none" or "sum".
        channel_dim: dimension of the categories.

    Returns:
        The logits' shape for "none", else a scalar. An element has weight N / (R_bin n), where N
        is the number of elements counted.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit.
        ConfigError: fewer than one bin, an unknown reduction or a bad normalizer.
    """
    inputs = prepare(logits, targets, weight, channel_dim)
    loss = one_vs_all(inputs, cross_entropy_term)
    index, counts = _classification_histogram(inputs, bins)
    return reduce(loss * harmonising_weights(index, counts, counts), inputs, reduction, normalizer)


def _classification_histogram(inputs: Inputs, bins: int) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        if inputs.targets.is_floating_point():
            size = (torch.sigmoid(inputs.logits) - inputs.targets).abs()
        else:
            size = one_vs_all(inputs, cross_entropy_slope)
    return histogram(size, inputs, bins)


def histogram(size: Tensor, inputs: Inputs, bins: int) -> tuple[Tensor, Tensor]:
    """Bin of every element, and the number of counted elements in each bin."""
    if bins < 1:
        raise ConfigError(f"bins = {bins}, but it must be at least 1")
    index = (size * bins).long().clamp(max=bins - 1)
    counted = torch.ones_like(index)
    if inputs.kept is not None:
        counted = counted * inputs.kept
    if inputs.weight is not None:
        counted = counted * (inputs.weight > 0)
    counts = counted.new_zeros(bins).index_add(0, index.flatten(), counted.flatten())
    return index, counts.to(size.dtype)


def harmonising_weights(index: Tensor, counts: Tensor, smoothed: Tensor) -> Tensor:
    """N / (S n) for every element; only elements that aren't counted have smoothed counts of 0."""
    filled = (counts > 0).sum().clamp(min=1)
    per_bin = counts.sum().clamp(min=1) / (smoothed * filled)
    return torch.where(smoothed > 0, per_bin, 0.0)[index]


class SmoothedCounts(LossWithMemory):
    """State of the GHM losses: bin counts, smoothed over steps.

    Args:
        bins: M.
        momentum: fraction of the old counts that a step keeps.

    Attributes (buffers):
        counts: ``(M,)`` smoothed counts S.
        pending: ``(M,)`` counts of this process since the last step.
    """

    counts: Tensor
    pending: Tensor

    def __init__(self, bins: int, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum = {momentum!r}, but it must be in [0, 1)")
        self.bins = bins
        self.momentum = momentum
        self.register_buffer("counts", torch.zeros(bins))
        self.register_buffer("pending", torch.zeros(bins))

    def element_weights(self, index: Tensor, counts: Tensor) -> Tensor:
        """Weights from the state updated with this call's counts, as in the released code."""
        if self.training:
            keep_pending(self.pending, counts)
            return harmonising_weights(index, counts, self._folded(self.pending).to(counts.dtype))
        known = torch.where(self.counts > 0, self.counts.to(counts.dtype), counts)
        return harmonising_weights(index, counts, known)

    def _folded(self, new: Tensor) -> Tensor:
        mixed = self.momentum * self.counts + (1 - self.momentum) * new
        return torch.where(new > 0, mixed, self.counts)

    @torch.no_grad()
    def step(self) -> None:
        """Add the pending counts, averaged over processes; call once per optimizer step."""
        (total,) = take_pending(self.pending)
        self.counts.copy_(self._folded(total / world_size()))


class GHMClassificationLoss(SmoothedCounts):
    """GHM-C with counts smoothed over steps; the mean of the harmonised cross entropy.

    The weights of a call include the counts of its own step; `step`, called once per optimizer
    step, adds them to the state.

    Args:
        bins, momentum: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `GHMClassificationLoss`."""

        kind: ClassVar[str] = "ghm"
        adds_up: ClassVar[bool] = False

        bins: int = 30
        """Number of bins of the gradient norm (M)."""
        momentum: float = 0.75
        """Fraction of the old bin counts that a step keeps."""

        def __post_init__(self) -> None:
            self._require(self.bins >= 1, "bins", "at least 1")
            self._require(0 <= self.momentum < 1, "momentum", "in [0, 1)")

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> GHMClassificationLoss:
            """The loss; ``num_classes`` and ``counts`` aren't used."""
            return GHMClassificationLoss(**self.arguments())

    def __init__(self, bins: int = 30, momentum: float = 0.75) -> None:
        super().__init__(bins, momentum)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: Σ CE / (S_bin n) over all logits that aren't ignored.

        The ``normalizer`` (the number of positives, for other losses) isn't used, because GHM
        divides by its own counts.
        """
        inputs = prepare(logits, targets)
        loss = one_vs_all(inputs, cross_entropy_term)
        index, counts = _classification_histogram(inputs, self.bins)
        return reduce(loss * self.element_weights(index, counts), inputs, "mean")
