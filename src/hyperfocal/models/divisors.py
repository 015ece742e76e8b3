"""Divisors of the losses, based on the number of positives in a step.

The focal-loss paper divides by "the number of anchors assigned to a ground-truth box" (section
4.1) and doesn't specify over which images; the variants here are those in use.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hyperfocal.losses._core.checks import check_choice
from hyperfocal.ops import constant_like

DivisorKind = Literal["global", "per_image", "ema"]
"""``global``: positives of the whole optimizer step over all processes. ``per_image``: each image
by its own positives, then the mean over images (torchvision). ``ema``: a moving average of the
global count (Detectron2)."""


LEAST_WEIGHT = 1e-6
"""Minimum of a sum of weights."""


class LossDivisors(nn.Module):
    """Divisors for each image of a batch from the number of positive priors.

    With n_b positives in image b, N their sum over every process and R the number of processes
    (whose gradients are averaged, hence the division by R):

        global      z_b = max(N, 1) / R
        per_image   z_b = max(n_b, 1) · B / R, with B the images of all processes
        ema         z_b = E / R,   E <- 0.9 E + 0.1 max(N, 1), initially E = 100

    E is a buffer, updated at each call in training mode, so call this once per optimizer step.

    Args:
        kind: the divisor.
    """

    MOMENTUM = 0.9
    START = 100.0

    average: Tensor

    def __init__(self, kind: DivisorKind = "global") -> None:
        super().__init__()
        check_choice(kind, "kind", DivisorKind)
        self.kind = kind
        if kind == "ema":
            self.register_buffer("average", torch.tensor(self.START))

    @torch.no_grad()
    def forward(self, positives: Tensor, weights: Tensor | None = None) -> Tensor:
        """Divisors ``(B, 2)`` float32: of sums over all priors, and of sums over the positives.

        Args:
            positives: ``(B,)``, number of positives of each image.
            weights: ``(B,)``, the sum of the weights of each image's positives, if their losses are
                weighted; in the second column W, their sum over all images, then replaces N, and
                1e-6 replaces 1. None: both columns are equal.
        """
        count = positives.float()
        weight = count if weights is None else weights.float()
        both = torch.stack((count, weight), dim=1)
        least = constant_like((1.0, 1.0 if weights is None else LEAST_WEIGHT), both)
        totals, processes = both.sum(dim=0), 1
        if self.kind == "per_image":
            totals = torch.full_like(totals, len(count))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
            processes = dist.get_world_size()
        if self.kind == "per_image":
            return torch.maximum(both, least) * totals / processes
        totals = torch.maximum(totals, least)
        if self.kind == "ema":
            if self.training:
                self.average.lerp_(totals[0], 1 - self.MOMENTUM)
            totals = self.average.expand(2)
        return (totals / processes).repeat(len(count), 1)


def divisors_of_step(counts: Tensor) -> Tensor:
    """Divisors ``(B, N)`` from numbers per image ``(B, N)``: their sums over all processes.

    At least 1, and over the number of processes, whose gradients are averaged. A collective
    operation with several processes.
    """
    totals, processes = counts.sum(dim=0).float(), 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(totals)
        processes = dist.get_world_size()
    return (totals.clamp(min=1) / processes).repeat(len(counts), 1)
