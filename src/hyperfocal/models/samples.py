"""The logits and labels of the samples that a dense detector classifies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hyperfocal.losses import QualityLoss
from hyperfocal.models.matched import Matched
from hyperfocal.types import IGNORED


class Samples(NamedTuple):
    """The logits and labels of a batch, the inputs of the classification loss.

    A sample of category j is a prior (or a RoI): positive if its label is j, negative if it is
    another category or background.

    Attributes:
        logits: ``(B, A, K)`` of the classification branch; ``(B, A, num_logits)`` if the loss
            declares its own.
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

    @classmethod
    def padded(
        cls, logits: Tensor, labels: Tensor, iou: Tensor, image: Tensor, images: int
    ) -> Samples:
        """Create from R rows of any number per image; shorter images get ignored rows.

        Args:
            logits: ``(R, num_logits)``.
            labels: ``(R,)``.
            iou: ``(R,)``.
            image: ``(R,)`` index of each row's image, ascending.
            images: B.
        """
        counts = torch.bincount(image, minlength=images).tolist()
        parts = (torch.split(values, counts) for values in (logits, labels, iou))
        rows = [pad_sequence(list(part), batch_first=True, padding_value=fill)
                for part, fill in zip(parts, (0.0, IGNORED, 0.0), strict=True)]  # fmt: skip
        return cls(*rows)

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
