"""Scores and gradients of the samples of each category, summed over images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfocal.losses import category_logits, class_scores
from hyperfocal.models import Detector
from hyperfocal.types import Batch


@dataclass
class CategorySums:
    """Sums ``(K, 2)`` over the positive and the negative samples of each category.

    A prior is a positive sample of its category and a negative sample of all others; ignored priors
    are neither.

    Attributes:
        count: float64, number of samples.
        score: float64, score of the classification branch, without quality: σ(logit), or as the
            loss declares (`class_scores`).
        gradient: float64, absolute gradient of the detector's classification loss with respect to
            the category's logit, without the normaliser.
    """

    count: Tensor
    score: Tensor
    gradient: Tensor

    @classmethod
    def zeros(cls, num_classes: int) -> CategorySums:
        """Sums over zero samples."""
        return cls(*(torch.zeros(num_classes, 2, dtype=torch.float64) for _ in range(3)))

    def count_ratio(self) -> Tensor:
        """``(K,)`` ratio of positive to negative samples; nan if both are 0."""
        return _ratio(self.count)

    def gradient_ratio(self) -> Tensor:
        """``(K,)`` ratio of positive to negative gradient; nan without positives."""
        return _ratio(self.gradient)

    def margin(self) -> Tensor:
        """``(K,)`` mean score of positives minus that of negatives; nan if either is missing."""
        mean = self.score / self.count
        return mean[:, 0] - mean[:, 1]


@torch.no_grad()
def sum_by_category(
    detector: Detector,
    batches: Iterable[Batch],
    device: torch.device,
    advance: Callable[[int], None] = lambda images: None,
) -> CategorySums:
    """Run the detector on the batches and sum. All logits of a batch are kept: use small batches.

    Args:
        detector: set to eval mode, so that neither norms nor losses are updated.
        batches: batches with targets.
        device: device of the detector.
        advance: called with the number of images processed, for a progress bar.
    """
    detector.eval()
    sums = CategorySums.zeros(detector.num_classes)
    own = list(category_logits(detector.loss, detector.num_classes))
    for batch in batches:
        samples = detector.samples(batch.to(device))
        kept = samples.labels >= 0
        labels = samples.labels[kept]
        sums.score += _by_side(class_scores(detector.loss, samples.logits[kept]), labels)
        gradient = samples.gradient(detector.loss)[kept][:, own]
        sums.gradient += _by_side(gradient.abs(), labels)
        positives = torch.bincount(labels, minlength=detector.num_classes + 1)[:-1].cpu().double()
        sums.count += torch.stack((positives, len(labels) - positives), dim=1)
        advance(len(batch))
    return sums


def _by_side(values: Tensor, labels: Tensor) -> Tensor:
    """``(K, 2)`` float64 on the CPU: sums of ``values (N, K)`` at the labels and elsewhere."""
    rows = (labels < values.shape[1]).nonzero().squeeze(1)
    own = values[rows, labels[rows]]
    positive = values.new_zeros(values.shape[1]).index_add(0, labels[rows], own)
    # Not computed by subtraction, because the negatives are many and small.
    rest = values.clone()
    rest[rows, labels[rows]] = 0
    return torch.stack((positive, rest.sum(0)), dim=1).cpu().double()


def _ratio(sides: Tensor) -> Tensor:
    positive, negative = sides.unbind(dim=1)
    return torch.where((positive > 0) & (negative > 0), positive / negative, torch.nan)
