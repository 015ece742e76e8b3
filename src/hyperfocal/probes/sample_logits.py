"""Logits of positive samples and of a random subset of negative samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hyperfocal.losses import LossWithOwnLogits
from hyperfocal.models import Detector
from hyperfocal.types import Batch, ConfigError


class SampleLogits(NamedTuple):
    """x_t of logits: the logit of a positive, the negated logit of a negative.

    A logit is positive if its category is its prior's label, and negative otherwise, unless its
    prior is ignored.

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
    """All positives, and a random sample of negatives from each batch.

    Needs memory for the result and for one batch's logits.

    Args:
        detector: set to eval mode.
        batches: batches with targets.
        device: device of the detector.
        per_batch: number of logits to sample per batch, without replacement (all if there are
            fewer); positives among them (at most a few in a thousand) are dropped.
        seed: random seed of the sampling.
        advance: called with the number of images processed, for a progress bar.

    Raises:
        ConfigError: the loss isn't one sigmoid per category (`LossWithOwnLogits`), so there is no
            x_t of one logit.
    """
    if isinstance(detector.loss, LossWithOwnLogits):
        raise ConfigError(
            f"loss = {type(detector.loss).__name__} isn't one sigmoid per category, but only the "
            "logit of a sigmoid has a focal loss: use a run with a loss such as focal or ce"
        )
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
        sampled = torch.from_numpy(rng.choice(logits.numel(), count, replace=False, shuffle=False))
        own_places = rows * logits.shape[1] + labels[rows]
        sampled = sampled.to(device)
        sampled = sampled[~torch.isin(sampled, own_places)]
        negative.append(-logits.flatten()[sampled].cpu())
        advance(len(batch))
    return SampleLogits(torch.cat(positive).numpy(), torch.cat(negative).numpy())
