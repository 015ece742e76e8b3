"""Classification loss of a dense head, from all logits or a few categories at a time."""

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
    """Scalar: the loss of all priors that aren't ignored, divided by each image's divisor.

    Args:
        loss: built by a `ClassificationLossConfig`.
        head: its last convolution computes the logits.
        features: the classification tower's map of each level.
        labels: ``(B, A)``, see `Assignment`.
        matched: the positives.
        iou: ``(P,)`` IoU of the positives' predicted boxes; required by a `QualityLoss`.
        divisor: ``(B,)``, from `LossNormalizer`.
        per_image: whether the divisors differ (if they are equal, the loss is called once).
        piecewise: compute a loss that `streams` a few categories at a time.
        stream_logits: number of logits in memory at a time then; None: chosen by device.
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
        # A diverged box has a NaN IoU and a NaN box loss, which is how the step is detected.
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
