"""Hard example mining: train on the anchors with the greatest loss, drop the rest.

**Online hard example mining (OHEM).** Each anchor of an image is scored by its loss;
non-maximum suppression over the anchor boxes, ordered by loss, thins out near duplicates; the B
hardest survivors are kept. In the 1:3 form all surviving positives are kept (at most B/4), and then
the hardest negatives, three for each positive. Whatever isn't kept adds no gradient at all.

Source: focal-loss paper, section 5.1 and Table 1d (B of 128, 256, 512; NMS at 0.5 or 0.7), where
the best setting is 3.2 AP behind focal loss. The paper leaves open what the score is and whether B
is per image; here it is whatever loss is given (summed cross entropy of an anchor is the usual
one), image by image, with ignored anchors left out.

**Hard negatives (SSD).** All positives, and the negatives with the greatest loss, three for each
positive of the image; no suppression (Liu et al. 2016, section 2.2).

Use them as the control for focal loss. Easy examples get no gradient, so that the selection has to
find the confusing background anew at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.losses.inputs import check_scalar
from hyperfocal.types import ConfigError, DataError


@torch.no_grad()
def online_hard_examples(
    losses: Tensor,
    labels: Tensor,
    boxes: Tensor,
    num_classes: int,
    *,
    keep: int = 256,
    nms_threshold: float = 0.7,
    one_to_three: bool = False,
    nms_candidates: int = 10_000,
) -> Tensor:
    """The anchors of one image to train on.

    Args:
        losses: ``(A,)`` the loss of every anchor, summed over categories.
        labels: ``(A,)`` integer labels: ``0..K-1``, ``K`` background, ``-1`` ignored.
        boxes: ``(A, 4)`` anchor boxes, xyxy.
        num_classes: K.
        keep: B, how many anchors to keep.
        nms_threshold: suppress anchors that overlap a harder one by more than this IoU; 1 keeps
            all.
        one_to_three: keep positives (at most B/4) and three negatives for each, instead of the B
            hardest. An image without positives then keeps nothing.
        nms_candidates: only this many of the hardest go into the suppression, all positives
            among them; enough as long as B of them survive.

    Returns:
        ``(A,)`` bool, True for the anchors kept.

    Raises:
        DataError: shapes that don't fit.
        ConfigError: a setting out of range.
    """
    if not (losses.ndim == 1 and labels.shape == losses.shape and boxes.shape == (len(losses), 4)):
        raise DataError(
            f"losses {tuple(losses.shape)}, labels {tuple(labels.shape)} and boxes "
            f"{tuple(boxes.shape)} must be (A,), (A,) and (A, 4)"
        )
    if keep < 1 or nms_candidates < 1:
        raise ConfigError(
            f"keep = {keep} and nms_candidates = {nms_candidates}, but both must be at least 1"
        )
    check_scalar(nms_threshold, "nms_threshold", 0, 1)
    positive = (labels >= 0) & (labels < num_classes)
    order = losses.argsort(descending=True, stable=True)
    order = order[labels[order] >= 0]
    hard = torch.arange(len(order), device=order.device) < nms_candidates
    order = order[hard | positive[order]]
    survivors = order[_nms(boxes[order], nms_threshold)]
    if one_to_three:
        is_positive = positive[survivors]
        positives = survivors[is_positive][: max(keep // 4, 1)]
        negatives = survivors[~is_positive][: 3 * len(positives)]
        chosen = torch.cat([positives, negatives])
    else:
        chosen = survivors[:keep]
    return torch.zeros_like(positive).index_fill(0, chosen, True)


@torch.no_grad()
def hard_negatives(
    losses: Tensor, labels: Tensor, num_classes: int, *, ratio: float = 3.0
) -> Tensor:
    """All positives of one image, and ``ratio`` times as many negatives, the hardest.

    Args:
        losses: ``(A,)`` the loss of every anchor, summed over categories.
        labels: ``(A,)`` integer labels: ``0..K-1``, ``K`` background, ``-1`` ignored.
        num_classes: K.
        ratio: negatives for each positive. An image without positives keeps nothing.

    Returns:
        ``(A,)`` bool, True for the anchors kept.

    Raises:
        DataError: shapes that don't fit.
        ConfigError: a ratio that isn't positive.
    """
    if losses.ndim != 1 or labels.shape != losses.shape:
        raise DataError(
            f"losses {tuple(losses.shape)} and labels {tuple(labels.shape)} must both be (A,)"
        )
    if not 0 < ratio < float("inf"):
        raise ConfigError(f"ratio = {ratio}, but it must be above 0")
    positive = (labels >= 0) & (labels < num_classes)
    negative = labels == num_classes
    order = losses.masked_fill(~negative, -1).argsort(descending=True, stable=True)
    wanted = torch.minimum((positive.sum() * ratio).round().long(), negative.sum())
    kept = torch.arange(len(order), device=order.device) < wanted
    return positive.index_put((order,), kept | positive[order])


def _nms(boxes: Tensor, threshold: float) -> Tensor:
    """Which boxes survive, given hardest first; in the same order."""
    from torchvision.ops import nms  # the other losses do without torchvision

    falling = torch.arange(len(boxes), 0, -1, dtype=torch.float32, device=boxes.device)
    survivors: Tensor = nms(boxes.float(), falling, threshold)
    return survivors
