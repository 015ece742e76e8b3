"""The best (prior, category) pairs of a dense head, computed for a few categories at a time.

The counterpart of `streamed_loss` for inference: the scores are never all in memory.
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
"""Ranking of pairs other than by logit: a function of level, image and logits ``(P, n)``, for all
priors of the level and n categories, to ranks ``(P, n)``; pairs of rank -inf are excluded."""


def from_level(rank: Rank, first: int) -> Rank:
    """The ranking of the levels from ``first`` on."""
    return lambda level, image, logits: rank(first + level, image, logits)


@dataclass(frozen=True)
class TopPairs:
    """The best (prior, category) pairs of one level of one image, best first.

    Attributes:
        index: ``(n,)`` int64, prior · K + category, with the prior's index in the level.
        logits: ``(n,)``.
    """

    index: Tensor
    logits: Tensor


@dataclass(frozen=True)
class _Best:
    """The best pairs so far, with their ranks."""

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
    """The ``k`` best (prior, category) pairs of each level and image.

    Equal to `stable_topk` of a level's flattened logits above ``least``: ties go to the lower
    prior, then the lower category. (A convolution with fewer outputs may round differently, and so
    may order nearly equal logits differently.)

    Args:
        features: input of the last convolution, one ``(B, C, H, W)`` map per level.
        weight: ``(A·K, C, k, k)``, as for `streamed_loss`.
        bias: ``(A·K,)`` or None.
        num_classes: K.
        k: maximum number of pairs per level and image.
        least: logits up to this are excluded.
        rank: the ranking; None: by logit.
        logits_at_once: approximate number of logits in memory; None: chosen by device.

    Returns:
        The pairs for each level and each image.

    Raises:
        DataError: incompatible shapes.
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
    """Positions of a run's pairs that may be among the k best of the run and of ``held``."""
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
    by_index = index.argsort()  # ties go to the lower index
    best = by_index[stable_topk(ranks[by_index], k)]
    return _Best(TopPairs(index[best], logits[best]), ranks[best])
