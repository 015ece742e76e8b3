"""The best (prior, category) pairs of a dense head, a few categories at a time.

The inference side of `streamed_loss`: no tensor of all scores ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfocal.losses.streamed_parts import LOGITS_AT_ONCE, blocks, checked_head, prepared, runs
from hyperfocal.ops import stable_topk

Rank = Callable[[int, int, Tensor, Tensor], Tensor]
"""What decides which pairs are best, where it isn't the logit alone: level, image, logits ``(n,)``
and priors ``(n,)`` within the level to ranks ``(n,)``; -inf doesn't count."""


@dataclass(frozen=True)
class TopPairs:
    """The best (prior, category) pairs of one level of one image, best first.

    Attributes:
        index: ``(n,)`` int64, prior · K + category, priors counted within the level.
        logits: ``(n,)``.
    """

    index: Tensor
    logits: Tensor


@torch.no_grad()
def streamed_topk(
    features: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    num_classes: int,
    k: int,
    least: float = -math.inf,
    rank: Rank | None = None,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> list[list[TopPairs]]:
    """The ``k`` best (prior, category) pairs of every level and image.

    The same as `stable_topk` among a level's flattened logits above ``least``: of equal logits the
    lower prior wins, then the lower category. (A convolution of fewer outputs may round its last
    digit differently, and so order neighbours differently than one of all.)

    Args:
        features: what the last convolution sees, a ``(B, C, H, W)`` map a level.
        weight: ``(A·K, C, k, k)``, as for `streamed_loss`.
        bias: ``(A·K,)`` or None.
        num_classes: K.
        k: pairs per level and image, at most.
        least: logits up to this don't count.
        rank: what is best; None: the greatest logit.
        logits_at_once: about how many logits may exist at a time.

    Returns:
        For every level, for every image, its pairs.

    Raises:
        DataError: shapes that don't fit together.
    """
    head = checked_head(features, weight, bias, num_classes)
    none = TopPairs(
        torch.empty(0, dtype=torch.long, device=weight.device),
        torch.empty(0, dtype=head.dtype, device=weight.device),
    )
    maps = [prepared(f, head) for f in features]
    levels = [[none] * len(f) for f in maps]
    for run in runs(maps, head, logits_at_once):
        for level, (feature, best) in enumerate(zip(maps, levels, strict=True)):
            for block in blocks(feature, run, logits_at_once):
                logits = run.rows(run.logits(feature[block]))
                images = range(block.start, block.stop)
                for image, rows in zip(images, logits.chunk(len(images)), strict=True):
                    ranked = _Ranked(rank, level, image, num_classes)
                    pairs = _above(rows, run.categories.start, num_classes, least)
                    best[image] = ranked.best(best[image], pairs, k)
    return levels


def _above(logits: Tensor, first: int, num_classes: int, least: float) -> TopPairs:
    """All pairs above ``least`` among a run's logits ``(priors, categories from first on)``."""
    flat = logits.flatten()
    position = (flat > least).nonzero().squeeze(1)
    prior = position.div(logits.shape[1], rounding_mode="floor")
    category = position % logits.shape[1] + first
    return TopPairs(prior * num_classes + category, flat[position])


@dataclass(frozen=True)
class _Ranked:
    """What is best on one level of one image."""

    rank: Rank | None
    level: int
    image: int
    num_classes: int

    def of(self, pairs: TopPairs) -> Tensor:
        if self.rank is None:
            return pairs.logits
        prior = pairs.index.div(self.num_classes, rounding_mode="floor")
        return self.rank(self.level, self.image, pairs.logits, prior)

    def best(self, old: TopPairs, new: TopPairs, k: int) -> TopPairs:
        """The k best of both, best first."""
        of_old, of_new = self.of(old), self.of(new)
        wanted = of_new > -math.inf
        if len(of_old) == k:
            wanted &= of_new >= of_old[-1]
        index = torch.cat((old.index, new.index[wanted]))
        logits = torch.cat((old.logits, new.logits[wanted]))
        ranks = torch.cat((of_old, of_new[wanted]))
        by_index = index.argsort()  # among equals the lower index wins
        chosen = by_index[stable_topk(ranks[by_index], k)]
        return TopPairs(index[chosen], logits[chosen])
