"""Random sampling of priors or regions for the losses of two-stage detectors.

(Girshick, "Fast R-CNN", ICCV 2015, section 2.3; Ren et al., "Faster R-CNN", NeurIPS 2015, section
3.1.3.)
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_balanced(
    labels: Tensor,
    num_classes: int,
    number: int,
    positive_fraction: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Indices of a random sample of one image's priors, with a limited share of positives.

    At most ``number · positive_fraction`` positives are sampled, and negatives fill up the rest.
    Every set of this size is equally likely.

    Args:
        labels: ``(A,)`` int64, ``0..K-1`` a category, K background, -1 ignored.
        num_classes: K.
        number: size of the sample; smaller if there are too few priors.
        positive_fraction: maximum fraction of positives.
        generator: random generator on the CPU; None: PyTorch's default.

    Returns:
        ``(S,)`` int64, the positives first, each group in ascending order.
    """
    positives = ((labels >= 0) & (labels < num_classes)).nonzero().squeeze(1)
    negatives = (labels == num_classes).nonzero().squeeze(1)
    wanted = min(int(number * positive_fraction), len(positives))
    rest = min(number - wanted, len(negatives))
    order = torch.rand(len(labels), generator=generator).to(labels.device)
    return torch.cat([_lowest(positives, order, wanted), _lowest(negatives, order, rest)])


def sample_size(labels: Tensor, num_classes: int, number: int, positive_fraction: float) -> Tensor:
    """``(B,)`` sizes of the samples of `sample_balanced` for labels ``(B, A)``."""
    positives = ((labels >= 0) & (labels < num_classes)).sum(dim=1)
    negatives = (labels == num_classes).sum(dim=1)
    wanted = positives.clamp(max=int(number * positive_fraction))
    return wanted + torch.minimum(number - wanted, negatives)


def _lowest(rows: Tensor, order: Tensor, number: int) -> Tensor:
    """The ``number`` rows with the lowest values, in ascending order of the rows."""
    if number == len(rows):
        return rows
    return rows[order[rows].argsort(stable=True)[:number]].sort().values
