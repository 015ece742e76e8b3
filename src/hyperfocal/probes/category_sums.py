"""What a trained detector says of the samples of each category, summed over images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfocal.models import Detector
from hyperfocal.types import Batch


@dataclass
class CategorySums:
    """Sums over the samples of each category: ``(K, 2)``, over its positives and its negatives.

    A prior is a positive sample of its own category, and a negative one of all others; one that is
    ignored is neither.

    Attributes:
        count: float64, samples.
        score: float64, σ(logit) of the classification branch, without any quality.
        gradient: float64, absolute gradient of the detector's own classification loss with respect
            to the logit, normaliser left out.
    """

    count: Tensor
    score: Tensor
    gradient: Tensor

    @classmethod
    def zeros(cls, num_classes: int) -> CategorySums:
        """Sums over nothing."""
        return cls(*(torch.zeros(num_classes, 2, dtype=torch.float64) for _ in range(3)))

    def count_ratio(self) -> Tensor:
        """``(K,)`` positive over negative samples; nan without either."""
        return _ratio(self.count)

    def gradient_ratio(self) -> Tensor:
        """``(K,)`` positive over negative gradient; nan without positives."""
        return _ratio(self.gradient)

    def margin(self) -> Tensor:
        """``(K,)`` mean score of positives less that of negatives; nan without either."""
        mean = self.score / self.count
        return mean[:, 0] - mean[:, 1]


@torch.no_grad()
def sum_by_category(
    detector: Detector,
    batches: Iterable[Batch],
    device: torch.device,
    advance: Callable[[int], None] = lambda images: None,
) -> CategorySums:
    """Pass over images and add up. All logits of a batch exist at once: keep batches small.

    Args:
        detector: put in eval mode, so that neither norms nor losses learn from the pass.
        batches: with targets.
        device: where the detector is.
        advance: called with the number of images done, for a progress bar.
    """
    detector.eval()
    sums = CategorySums.zeros(detector.num_classes)
    for batch in batches:
        samples = detector.samples(batch.to(device))
        kept = samples.labels >= 0
        labels, logits = samples.labels[kept], samples.logits[kept].float()
        sums.score += _by_side(logits.sigmoid(), labels)
        sums.gradient += _by_side(samples.gradient(detector.loss)[kept].abs(), labels)
        positives = torch.bincount(labels, minlength=detector.num_classes + 1)[:-1].cpu().double()
        sums.count += torch.stack((positives, len(labels) - positives), dim=1)
        advance(len(batch))
    return sums


def _by_side(values: Tensor, labels: Tensor) -> Tensor:
    """``(K, 2)`` float64 on the CPU: sums of ``values (N, K)`` at the labels, and all else."""
    rows = (labels < values.shape[1]).nonzero().squeeze(1)
    own = values[rows, labels[rows]]
    positive = values.new_zeros(values.shape[1]).index_add(0, labels[rows], own)
    # Not got by subtraction: the negatives are many and tiny.
    rest = values.clone()
    rest[rows, labels[rows]] = 0
    return torch.stack((positive, rest.sum(0)), dim=1).cpu().double()


def _ratio(sides: Tensor) -> Tensor:
    positive, negative = sides.unbind(dim=1)
    return torch.where((positive > 0) & (negative > 0), positive / negative, torch.nan)
