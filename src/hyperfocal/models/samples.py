"""The logits and labels of the samples that a dense detector classifies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hyperfocal.losses import QualityLoss
from hyperfocal.models.matched import Matched


class Samples(NamedTuple):
    """The logits and labels of a batch, the inputs of the classification loss.

    A sample of category j is a prior: positive if its label is j, negative if it is another
    category or background.

    Attributes:
        logits: ``(B, A, K)`` of the classification branch.
        labels: ``(B, A)`` int64, ``0..K-1`` a category, K background, -1 ignored.
        iou: ``(B, A)`` IoU of the positives' predicted boxes; 0 elsewhere.
    """

    logits: Tensor
    labels: Tensor
    iou: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, matched: Matched, iou: Tensor) -> Samples:
        """Create from the IoU ``(P,)`` of the positives."""
        everywhere = torch.zeros(labels.shape, device=labels.device)
        everywhere[matched.image, matched.prior] = iou.float()
        return cls(logits, labels, everywhere)

    @torch.enable_grad()
    def gradient(self, loss: nn.Module) -> Tensor:
        """``(B, A, K)``: gradient of the summed loss with respect to the logits.

        Args:
            loss: built by a `ClassificationLossConfig`; in eval mode its state isn't changed.
        """
        x = self.logits.detach().float().requires_grad_()
        rows, labels = x.flatten(0, 1), self.labels.flatten()
        if isinstance(loss, QualityLoss):
            value = loss(rows, labels, 1.0, quality=self.iou.flatten())
        else:
            value = loss(rows, labels, 1.0)
        (gradient,) = torch.autograd.grad(value, x)
        return gradient
