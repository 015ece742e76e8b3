"""The logits of positive and negative samples over many images, few enough to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfocal.models import Detector
from hyperfocal.types import Batch


class SampleLogits(NamedTuple):
    """x_t of single logits: the logit of a positive, the negated logit of a negative.

    A logit is positive where its category is its prior's label, and negative at every other prior
    that isn't ignored.

    Attributes:
        positive: ``(P,)`` float32.
        negative: ``(N,)`` float32.
    """

    positive: NDArray[np.float32]
    negative: NDArray[np.float32]


@torch.no_grad()
def collect_logits(
    detector: Detector,
    batches: Iterable[Batch],
    device: torch.device,
    per_batch: int,
    seed: int = 0,
    advance: Callable[[int], None] = lambda images: None,
) -> SampleLogits:
    """All positives, and a number of negatives from each batch, over some images.

    Memory is that of the result and of one batch's logits.

    Args:
        detector: put in eval mode.
        batches: with targets.
        device: where the detector is.
        per_batch: logits to draw of each batch, without repeats, all if it has no more; those that
            are positives (a few in a thousand at most) are dropped.
        seed: of the drawing.
        advance: called with the number of images done, for a progress bar.
    """
    detector.eval()
    rng = np.random.default_rng(seed)
    positive, negative = [torch.zeros(0)], [torch.zeros(0)]
    for batch in batches:
        samples = detector.samples(batch.to(device))
        kept = samples.labels >= 0
        labels, logits = samples.labels[kept], samples.logits[kept].float()
        rows = (labels < detector.num_classes).nonzero().squeeze(1)
        own = logits[rows, labels[rows]]
        positive.append(own.cpu())
        count = min(per_batch, logits.numel())
        drawn = torch.from_numpy(rng.choice(logits.numel(), count, replace=False, shuffle=False))
        own_places = rows * logits.shape[1] + labels[rows]
        drawn = drawn.to(device)
        drawn = drawn[~torch.isin(drawn, own_places)]
        negative.append(-logits.flatten()[drawn].cpu())
        advance(len(batch))
    return SampleLogits(torch.cat(positive).numpy(), torch.cat(negative).numpy())
