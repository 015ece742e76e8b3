"""Equalization loss v2 (EQLv2).

Formula, with the category's accumulated gradient ratio g_j (positive over negative):

    f(g) = 1 / (1 + exp(-γ_e (g - μ)))
    q_j = f(g_j)                       weight of a negative
    r_j = 1 + α_e (1 - f(g_j))         weight of a positive
    EQLv2 = Σ_j [y_j r_j + (1 - y_j) q_j] CE(x_j)

Gradient with respect to the logit: that of cross entropy, times the weight. Its absolute value
|σ(x) - y| times the weight (without the normalizer) is accumulated. g starts at 100, where
q = r = 1.

In a two-stage detector EQLv2 has one more logit than categories, for objectness, whose positive
class is the background: it has weight 1, is excluded from the statistics, and the score of category
j is σ(x_j)·(1 - σ(x_bg)) (`eqlv2_scores`). A dense detector's K outputs have no such logit.

Source: Equalization Loss v2 (Tan et al., CVPR 2021) and its released code: γ_e = 12, μ = 0.8,
α_e = 4.

Use it for the classifier of a two-stage detector on long-tailed data. In a dense detector the easy
negatives still dominate, as with cross entropy: see `eqlv2_focal` and `equalized_focal`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_scalar
from hyperfocal.losses._core.inputs import Inputs, Reduction, prepare, reduce
from hyperfocal.losses._core.memory import BALANCED, GradientRatioLoss
from hyperfocal.losses._core.one_vs_all import one_vs_all, one_vs_all_sums
from hyperfocal.losses._core.terms import cross_entropy_slope, cross_entropy_term
from hyperfocal.losses.roles import ClassificationLossConfig, LossWithOwnLogits
from hyperfocal.losses.softmax_logits import softmax_prior_bias
from hyperfocal.types import CategoryCounts, ConfigError, DataError

START = 100.0
"""Gradient ratio before the first step, at which the weights are 1."""


@dataclass(frozen=True)
class RatioMap:
    """Map from gradient ratio to the weights of positives and negatives.

    Attributes:
        steepness: γ_e.
        midpoint: μ, the ratio at which the negative weight is 1/2.
        boost: α_e; the maximum positive weight is 1 + boost.
    """

    steepness: float = 12.0
    midpoint: float = 0.8
    boost: float = 4.0

    def __post_init__(self) -> None:
        for name in ("steepness", "midpoint", "boost"):
            check_scalar(getattr(self, name), name)

    def weights(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of positives (r) and of negatives (q), in the shape of ``ratio``."""
        negative = torch.sigmoid(self.steepness * (ratio - self.midpoint))
        return 1 + self.boost * (1 - negative), negative

    def balanced(self, ratio: Tensor) -> Tensor:
        """Bool in the shape of ``ratio``: where the weight of negatives is 1, to within 0.01."""
        return self.weights(ratio)[1] >= BALANCED


def equalization_loss_v2(
    logits: Tensor,
    targets: Tensor,
    ratio: Tensor,
    *,
    ratio_map: RatioMap | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
) -> Tensor:
    """EQLv2 for given gradient ratios; `EqualizationLossV2` accumulates them.

    Args:
        logits: ``(..., K)``, or ``(..., K + 1)`` with the objectness logit last (positive for
            background).
        targets: integer labels (``0..K-1``, ``K`` background, ``-1`` ignored), or for K logits
            also floats or 0/1 of the logits' shape.
        ratio: ``(K,)`` gradient ratios, at least 0.
        ratio_map: map from ratio to weights; None: the paper's.
        weight: extra factor, one per row or one per logit.
        reduction: "none", "sum" or "mean" (over what isn't ignored).
        normalizer: divides the result of "none" or "sum"; the number of rows in the paper.
        channel_dim: dimension of the categories.

    Returns:
        The logits' shape for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit.
        ConfigError: a setting out of range.
    """
    inputs, own, rest = prepare_with_ratio(logits, targets, ratio, ratio_map, weight, channel_dim)
    loss = one_vs_all(inputs, cross_entropy_term, own=own, rest=rest)
    return reduce(loss, inputs, reduction, normalizer)


def eqlv2_scores(logits: Tensor) -> Tensor:
    """Scores ``(..., K)`` from logits ``(..., K + 1)`` with objectness last."""
    scores: Tensor = torch.sigmoid(logits[..., :-1]) * torch.sigmoid(-logits[..., -1:])
    return scores


def prepare_with_ratio(
    logits: Tensor,
    targets: Tensor,
    ratio: Tensor,
    ratio_map: RatioMap | None,
    weight: Tensor | None = None,
    channel_dim: int = -1,
    may_have_objectness: bool = True,
) -> tuple[Inputs, Tensor, Tensor]:
    """Checked inputs, and the weights of positives and negatives for every logit column."""
    there = -logits.ndim <= channel_dim < logits.ndim  # if it isn't, `prepare` says so
    columns = logits.shape[channel_dim] if there else 1
    objectness = may_have_objectness and columns == ratio.shape[0] + 1
    # With objectness the background has its own column, K.
    inputs = prepare(logits, targets, weight, channel_dim, background=not objectness)
    own, rest = (ratio_map or RatioMap()).weights(ratio.to(inputs.logits.dtype))
    if objectness:
        if targets.is_floating_point():
            raise DataError("with an objectness logit the targets must be integer labels")
        own, rest = (torch.cat([w, w.new_ones(1)]) for w in (own, rest))
    elif columns != ratio.shape[0]:
        raise ConfigError(f"ratio has {ratio.shape[0]} categories, but there are {columns} logits")
    return inputs, own, rest


class EqualizationLossV2(GradientRatioLoss):
    """EQLv2 that accumulates its own gradient ratios.

    ``forward`` returns the summed loss and stores the statistics of the call as pending; `step`,
    called once per optimizer step, adds them to the state (see `GradientRatioLoss`). The statistics
    don't include the normalizer, as in the released code.

    Args:
        num_classes: K. Logits are ``(..., K)``, or ``(..., K + 1)`` with objectness last.
        steepness, midpoint, boost: see `Config`.
    """

    normalized_memory: ClassVar[bool] = False
    plain: ClassVar[str] = "cross-entropy"

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `EqualizationLossV2`."""

        kind: ClassVar[str] = "eqlv2"

        steepness: float = 12.0
        """Steepness of the weights as a function of the gradient ratio (γ_e)."""
        midpoint: float = 0.8
        """Gradient ratio at which the weight of negatives is 1/2 (μ)."""
        boost: float = 4.0
        """The maximum weight of positives is 1 + boost (α_e)."""
        objectness: bool | None = None
        """One more logit, the probability of the background, as in the paper; none: if the
        detector's classifier follows its loss, such as Faster R-CNN's. A dense detector has no
        room for it."""

        def __post_init__(self) -> None:
            for name in ("steepness", "midpoint", "boost"):
                self._require(getattr(self, name) >= 0, name, "at least 0")

        @property
        def has_own_logits(self) -> bool:
            """Whether an objectness logit is required."""
            return self.objectness is True

        def with_own_logits(self) -> EqualizationLossV2.Config:
            """With the objectness logit, unless it is excluded."""
            return self if self.objectness is not None else replace(self, objectness=True)

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> EqualizationLossV2:
            """The loss for ``num_classes`` categories; ``counts`` isn't used."""
            kind = EqualizationLossV2WithObjectness if self.objectness else EqualizationLossV2
            return kind(num_classes, **self.arguments("objectness"))

    def __init__(
        self,
        num_classes: int,
        steepness: float = 12.0,
        midpoint: float = 0.8,
        boost: float = 4.0,
    ) -> None:
        super().__init__(num_classes, start=START)
        self.ratio_map = RatioMap(steepness, midpoint, boost)

    def balanced(self) -> Tensor:
        """``(K,)`` bool: categories whose weight of negatives is 1, to within 0.01."""
        return self.ratio_map.balanced(self.ratio)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over all logits that aren't ignored, over ``normalizer``."""
        inputs, own, rest = prepare_with_ratio(logits, targets, self.ratio, self.ratio_map)
        loss = one_vs_all(inputs, cross_entropy_term, own=own, rest=rest)
        if self.training:
            sums = one_vs_all_sums(inputs, cross_entropy_slope, own=own, rest=rest)
            self.remember(*(total[: len(self.ratio)] for total in sums))
        return reduce(loss, inputs, "sum", normalizer)


class EqualizationLossV2WithObjectness(EqualizationLossV2, LossWithOwnLogits):
    """`EqualizationLossV2` for logits ``(..., K + 1)``, with the background's last.

    The last logit is trained on all rows with weight 1, and a category's score is its probability
    times that of not being background (`eqlv2_scores`).

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import EqualizationLossV2WithObjectness
        >>> loss = EqualizationLossV2WithObjectness(num_classes=3)
        >>> logits = torch.zeros(1, loss.num_logits)
        >>> loss(logits, torch.tensor([0]))  # 4 log 2
        tensor(2.7726)
        >>> loss.scores(logits)
        tensor([[0.2500, 0.2500, 0.2500]])
    """

    @property
    def num_logits(self) -> int:
        """K + 1."""
        return len(self.ratio) + 1

    @property
    def category_logits(self) -> tuple[int, ...]:
        """``0..K-1``."""
        return tuple(range(len(self.ratio)))

    def scores(self, logits: Tensor) -> Tensor:
        """`eqlv2_scores`."""
        return eqlv2_scores(logits)

    def initial_bias(self, prior: float) -> Tensor:
        """Each category and objectness start at ``prior``."""
        bias = torch.full((self.num_logits,), -softmax_prior_bias(1, prior))
        bias[-1] = softmax_prior_bias(1, prior)
        return bias
