"""Balanced group softmax (BAGS): a separate softmax for categories of similar frequency.

Categories are grouped by their number of training boxes. Each foreground group has its own softmax
over its categories and one more logit, "others"; a background group has two logits, background and
others. Each group's loss is the mean softmax cross entropy over the rows selected for it, and the
groups' losses are summed:

    L = Σ_g mean over selected rows of -log softmax_g(x)[member or others]

The background group selects all rows. A foreground group selects the rows of its categories and a
random sample of the others, at most β for each of its own; without any of its own its loss is 0.

Gradient with respect to the logits of a group: softmax minus one-hot, divided by the number of
selected rows.

Source: Balanced Group Softmax (Li et al., CVPR 2020): groups cut at 10, 100 and 1000 boxes, β = 8,
used *decoupled*: only the classifier is trained, on a frozen detector.

Use it to retrain the classifier of a trained two-stage detector. A category's score is its
probability in its group times that of "others" in the background group (`bags_scores`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_scalar, scalar_normalizer
from hyperfocal.losses._core.counts import require_counts
from hyperfocal.losses._core.inputs import prepare_softmax
from hyperfocal.losses._core.terms import cross_entropy_term
from hyperfocal.losses.roles import ClassificationLossConfig, LossWithOwnLogits
from hyperfocal.losses.softmax_focal import true_class_logit
from hyperfocal.losses.softmax_logits import softmax_prior_bias
from hyperfocal.types import CategoryCounts, ConfigError, DataError


@dataclass(frozen=True)
class CategoryGroups:
    """The group of each category, and the layout of the logits.

    The logits of a row are ``[background, others | group 1's categories, others | ...]``,
    ``K + 2 + groups`` in total; within a group categories keep their order.

    Attributes:
        group_of: group of every category, ``0..groups-1``.
        groups: number of foreground groups; some may be empty.
    """

    group_of: tuple[int, ...]
    groups: int

    def __post_init__(self) -> None:
        if not self.group_of or not all(0 <= g < self.groups for g in self.group_of):
            raise ConfigError(
                f"group_of = {self.group_of!r}, but it must name one of {self.groups} groups "
                "for each category"
            )

    @classmethod
    def from_counts(
        cls, instances: Sequence[int], cuts: Sequence[int] = (10, 100, 1000)
    ) -> CategoryGroups:
        """Group by boxes per category: fewer than the first cut, fewer than the second, ..."""
        if list(cuts) != sorted(set(cuts)):
            raise ConfigError(f"cuts = {tuple(cuts)!r}, but they must increase")
        return cls(tuple(bisect_right(cuts, n) for n in instances), len(cuts) + 1)

    @property
    def num_logits(self) -> int:
        """Number of logits per row."""
        return 2 + len(self.group_of) + self.groups

    @cached_property
    def columns(self) -> tuple[tuple[int, ...], ...]:
        """Categories of each foreground group, in order."""
        return tuple(
            tuple(c for c, g in enumerate(self.group_of) if g == group)
            for group in range(self.groups)
        )

    def slices(self) -> list[slice]:
        """The logits of each foreground group, "others" last."""
        out, start = [], 2
        for members in self.columns:
            out.append(slice(start, start + len(members) + 1))
            start += len(members) + 1
        return out

    @property
    def category_logits(self) -> tuple[int, ...]:
        """Index of each category's logit."""
        index = {
            category: part.start + place
            for members, part in zip(self.columns, self.slices(), strict=True)
            for place, category in enumerate(members)
        }
        return tuple(index[category] for category in range(len(self.group_of)))

    def places(self) -> Tensor:
        """``(groups, K + 1)``: index of each label in each group; that of "others" if outside."""
        rows = [[len(members)] * (len(self.group_of) + 1) for members in self.columns]
        for row, members in zip(rows, self.columns, strict=True):
            for place, category in enumerate(members):
                row[category] = place
        return torch.tensor(rows)


def balanced_group_softmax_loss(
    logits: Tensor,
    targets: Tensor,
    groups: CategoryGroups,
    *,
    beta: float = 8.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sum over groups of each group's mean softmax cross entropy.

    The means are over randomly sampled rows, so there is no weight, reduction or normalizer.

    Args:
        logits: ``(N, groups.num_logits)``.
        targets: ``(N,)`` integer labels, ``0..K-1``, ``K`` background, ``-1`` ignored.
        groups: layout of the logits.
        beta: maximum number of rows of other categories sampled per row of the group's own.
        generator: random generator for sampling; None: PyTorch's default.

    Returns:
        A scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit.
        ConfigError: negative beta.
    """
    return _loss(logits, targets, groups, groups.places().to(logits.device), beta, generator)


def bags_scores(logits: Tensor, groups: CategoryGroups) -> Tensor:
    """Scores ``(..., K)`` from logits ``(..., groups.num_logits)``."""
    columns = torch.tensor(groups.category_logits, device=logits.device)
    return _scores(logits, groups, columns)


def _loss(
    logits: Tensor,
    targets: Tensor,
    groups: CategoryGroups,
    places: Tensor,
    beta: float,
    generator: torch.Generator | None,
) -> Tensor:
    check_scalar(beta, "beta")
    if logits.ndim != 2 or logits.shape[-1] != groups.num_logits:
        raise DataError(
            f"logits have shape {tuple(logits.shape)}, but it must be (N, {groups.num_logits})"
        )
    k = len(groups.group_of)
    inputs = prepare_softmax(logits[:, : k + 1], targets)
    labels, x = inputs.targets, logits.to(inputs.logits.dtype)
    kept = labels >= 0
    is_object = (kept & (labels < k)).long()  # 0: background, 1: others
    total = _mean_cross_entropy(x[:, :2], is_object, kept)
    for members, part, place in zip(groups.columns, groups.slices(), places, strict=True):
        if members:
            local = place[labels.clamp(min=0)]
            own = kept & (local < len(members))
            chosen = own | _pick(kept & ~own, beta * own.sum(), generator)
            total = total + _mean_cross_entropy(x[:, part], local, chosen)
    return total


def _scores(logits: Tensor, groups: CategoryGroups, columns: Tensor) -> Tensor:
    in_group = torch.cat([torch.softmax(logits[..., part], -1) for part in groups.slices()], -1)
    is_object = torch.softmax(logits[..., :2], -1)[..., 1:]
    return in_group[..., columns - 2] * is_object


def _mean_cross_entropy(x: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
    loss = cross_entropy_term(true_class_logit(x, labels.unsqueeze(-1))).squeeze(-1).to(x.dtype)
    return torch.where(chosen, loss, 0.0).sum() / chosen.sum().clamp(min=1)


def _pick(candidates: Tensor, most: Tensor, generator: torch.Generator | None) -> Tensor:
    """At most ``most`` random candidates, without synchronising with the device."""
    order = torch.rand(candidates.shape, device=candidates.device, generator=generator)
    order = torch.where(candidates, order, 2.0)
    rank = order.argsort().argsort()
    return candidates & (rank < most)


class BalancedGroupSoftmaxLoss(LossWithOwnLogits):
    """`balanced_group_softmax_loss` with its groups.

    The rows of other categories are sampled by PyTorch's default generator, which a training seeds
    in each step, so a resumed training samples the same ones.

    Args:
        groups: layout of the logits.
        beta: see `Config`.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import BalancedGroupSoftmaxLoss, CategoryGroups
        >>> groups = CategoryGroups.from_counts([5000, 300, 4], cuts=(100,))
        >>> groups.columns  # categories with fewer than 100 boxes, and the others
        ((2,), (0, 1))
        >>> loss = BalancedGroupSoftmaxLoss(groups)
        >>> loss.num_logits  # 2 for the background group, 1 + 1 and 2 + 1
        7
        >>> loss.scores(torch.zeros(1, 7))
        tensor([[0.1667, 0.1667, 0.2500]])
    """

    places: Tensor
    columns: Tensor

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `BalancedGroupSoftmaxLoss`."""

        kind: ClassVar[str] = "bags"
        adds_up: ClassVar[bool] = False

        cuts: tuple[int, ...] = (10, 100, 1000)
        """Numbers of training boxes that divide the categories into groups."""
        beta: float = 8.0
        """Maximum number of rows of other categories sampled per row of a group's own."""

        def __post_init__(self) -> None:
            increase = list(self.cuts) == sorted(set(self.cuts))
            self._require(increase and all(n > 0 for n in self.cuts), "cuts", "increasing numbers")
            self._require(self.beta >= 0, "beta", "at least 0")

        @property
        def has_own_logits(self) -> bool:
            """True."""
            return True

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> BalancedGroupSoftmaxLoss:
            """The loss, with groups from the training split's boxes per category."""
            instances = require_counts(counts, num_classes, self.kind).instances
            groups = CategoryGroups.from_counts(instances, self.cuts)
            return BalancedGroupSoftmaxLoss(**self.arguments("cuts", groups=groups))

    def __init__(self, groups: CategoryGroups, beta: float = 8.0) -> None:
        super().__init__()
        self.groups = groups
        self.beta = beta
        # On the device, because copying them in each call would wait for it.
        self.register_buffer("places", groups.places(), persistent=False)
        self.register_buffer("columns", torch.tensor(groups.category_logits), persistent=False)

    @property
    def num_logits(self) -> int:
        """See `CategoryGroups.num_logits`."""
        return self.groups.num_logits

    @property
    def category_logits(self) -> tuple[int, ...]:
        """See `CategoryGroups.category_logits`."""
        return self.groups.category_logits

    def scores(self, logits: Tensor) -> Tensor:
        """`bags_scores`."""
        return _scores(logits, self.groups, self.columns)

    def initial_bias(self, prior: float) -> Tensor:
        """The background group gives objects probability ``prior``; other biases are 0."""
        bias = torch.zeros(self.num_logits)
        bias[0] = softmax_prior_bias(1, prior)
        return bias

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number | None = None) -> Tensor:
        """Scalar: the sum of the groups' means.

        Args:
            logits: ``(N, num_logits)``.
            targets: ``(N,)`` labels.
            normalizer: number of rows of a step, over its number of processes. Each group is
                already a mean, so the sum of means is multiplied by this call's share of the
                step's rows: micro-batches and processes are averaged, weighted by their rows.
                None: the share is 1.
        """
        loss = _loss(logits, targets, self.groups, self.places, self.beta, None)
        if normalizer is None:
            return loss
        return loss * (targets >= 0).sum() / scalar_normalizer(normalizer)
