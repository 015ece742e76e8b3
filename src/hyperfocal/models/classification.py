"""The classification loss of a dense head, with any loss, whole or a few categories at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyperfocal.losses import QualityLoss
from hyperfocal.models.head import DenseHead
from hyperfocal.models.matched import Matched
from hyperfocal.models.streamed import streamed_loss, streams


def classification_loss(
    loss: nn.Module,
    head: DenseHead,
    features: Sequence[Tensor],
    labels: Tensor,
    matched: Matched,
    iou: Tensor | None,
    divisor: Tensor,
    per_image: bool,
    piecewise: bool,
    stream_logits: int | None = None,
) -> Tensor:
    """Scalar: the loss of all priors that aren't ignored, each image's over its divisor.

    Args:
        loss: one of `ClassificationLossConfig`.
        head: whose last convolution makes the logits.
        features: the classification tower's map of each level.
        labels: ``(B, A)``, see `Assignment`.
        matched: the positives.
        iou: ``(P,)`` of the positives' predicted boxes; a `QualityLoss` needs it.
        divisor: ``(B,)``, what `LossNormalizer` gave.
        per_image: whether the divisors differ (else they are all the same, and the loss is called
            once).
        piecewise: compute a loss that `streams` without ever holding all logits.
        stream_logits: how many of them may exist at a time; None: what suits the device.
    """
    last = head.cls_logits
    if not per_image:
        divisor = divisor[0]
    if piecewise and streams(loss):
        streamed: Tensor = streamed_loss(
            *(features, last.weight, last.bias, labels, loss, head.num_classes, divisor),
            logits_at_once=stream_logits,
        )
        return streamed
    logits, extra = head.classify(features), {}
    if isinstance(loss, QualityLoss):
        assert iou is not None
        quality = torch.zeros(labels.shape, device=labels.device)
        # The IoU of a box that diverged is NaN, and so is its box loss: the step is known as bad.
        quality[matched.image, matched.prior] = iou.detach().nan_to_num(nan=0.0)
        extra = {"quality": quality}
    if not per_image:
        extra = {name: value.flatten() for name, value in extra.items()}
        whole: Tensor = loss(logits.flatten(0, 1), labels.flatten(), divisor, **extra)
        return whole
    terms = [
        loss(logits[b], labels[b], z, **{name: v[b] for name, v in extra.items()})
        for b, z in enumerate(divisor)
    ]
    return torch.stack(terms).sum()
