"""The best (prior, category) pairs of a dense head, a few categories at a time.

The inference side of `streamed_loss`: no tensor of all scores ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfocal.losses.streamed_parts import LOGITS_AT_ONCE, blocks, checked_head, prepared, runs
from hyperfocal.ops import stable_topk


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
        for feature, best in zip(maps, levels, strict=True):
            for block in blocks(feature, run, logits_at_once):
                logits = run.rows(run.logits(feature[block]))
                images = range(block.start, block.stop)
                for image, rows in zip(images, logits.chunk(len(images)), strict=True):
                    new = _candidates(rows, best[image], k, least)
                    prior = new.div(rows.shape[1], rounding_mode="floor")
                    category = new % rows.shape[1] + run.categories.start
                    pairs = TopPairs(prior * num_classes + category, rows.flatten()[new])
                    best[image] = _best(best[image], pairs, k)
    return levels


def _candidates(logits: Tensor, best: TopPairs, k: int, least: float) -> Tensor:
    """Flat positions of the part's logits that may be among the k best so far."""
    flat = logits.flatten()
    wanted = flat > least
    if len(best.logits) == k:
        wanted &= flat >= best.logits[-1]
    position = wanted.nonzero().squeeze(1)
    return position[stable_topk(flat[position], k)]


def _best(old: TopPairs, new: TopPairs, k: int) -> TopPairs:
    index, logits = torch.cat((old.index, new.index)), torch.cat((old.logits, new.logits))
    by_index = index.argsort()
    index, logits = index[by_index], logits[by_index]
    chosen = stable_topk(logits, k)
    return TopPairs(index[chosen], logits[chosen])
