"""The best (prior, category) pairs of a dense head, a few categories at a time.

The inference side of `streamed_loss`: no tensor of all scores ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfocal.models.streamed_parts import blocks, checked_head, pieces_for, prepared, runs
from hyperfocal.ops import stable_topk

Rank = Callable[[int, int, Tensor], Tensor]
"""What decides which pairs are best, where it isn't the logit alone: level, image and logits
``(P, n)``, all the level's priors and n categories, to ranks ``(P, n)``; -inf doesn't count."""


@dataclass(frozen=True)
class TopPairs:
    """The best (prior, category) pairs of one level of one image, best first.

    Attributes:
        index: ``(n,)`` int64, prior · K + category, priors counted within the level.
        logits: ``(n,)``.
    """

    index: Tensor
    logits: Tensor


@dataclass(frozen=True)
class _Best:
    """The best pairs so far, and what makes them so."""

    pairs: TopPairs
    ranks: Tensor


@torch.no_grad()
def streamed_topk(
    features: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    num_classes: int,
    k: int,
    least: float = -math.inf,
    rank: Rank | None = None,
    logits_at_once: int | None = None,
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
        logits_at_once: about how many logits may exist at a time; None: what suits the device.

    Returns:
        For every level, for every image, its pairs.

    Raises:
        DataError: shapes that don't fit together.
    """
    head = checked_head(features, weight, bias, num_classes)
    nothing = torch.empty(0, dtype=head.dtype, device=weight.device)
    none = _Best(TopPairs(nothing.long(), nothing), nothing)
    maps = [prepared(f, head) for f in features]
    levels = [[none] * len(f) for f in maps]
    pieces = pieces_for(weight.device, head.dtype, logits_at_once)
    for run in runs(maps, head, pieces):
        for level, (feature, best) in enumerate(zip(maps, levels, strict=True)):
            for block in blocks(feature, run, pieces):
                logits = run.rows(run.logits(feature[block]))
                images = range(block.start, block.stop)
                for image, rows in zip(images, logits.chunk(len(images)), strict=True):
                    ranks = rows if rank is None else rank(level, image, rows)
                    held = best[image]
                    chosen = _chosen(rows.flatten(), ranks.flatten(), held.ranks, k, least)
                    prior = chosen.div(rows.shape[1], rounding_mode="floor")
                    category = chosen % rows.shape[1] + run.categories.start
                    pairs = TopPairs(prior * num_classes + category, rows.flatten()[chosen])
                    new = _Best(pairs, ranks.flatten()[chosen])
                    best[image] = _merged(held, new, k)
    return [[held.pairs for held in best] for best in levels]


def _chosen(logits: Tensor, ranks: Tensor, held: Tensor, k: int, least: float) -> Tensor:
    """Positions of a run's pairs that may be among the k best of it and of what is held."""
    wanted = (logits > least) & (ranks > -math.inf)
    if len(held) == k:
        wanted &= ranks >= held[-1]
    position = wanted.nonzero().squeeze(1)
    return position[stable_topk(ranks[position], k)]


def _merged(old: _Best, new: _Best, k: int) -> _Best:
    """The k best of both, best first."""
    index = torch.cat((old.pairs.index, new.pairs.index))
    logits = torch.cat((old.pairs.logits, new.pairs.logits))
    ranks = torch.cat((old.ranks, new.ranks))
    by_index = index.argsort()  # among equals the lower index wins
    best = by_index[stable_topk(ranks[by_index], k)]
    return _Best(TopPairs(index[best], logits[best]), ranks[best])
