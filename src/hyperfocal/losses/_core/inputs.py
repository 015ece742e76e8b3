"""Arguments and reduction shared by the losses.

`prepare` checks the arguments and moves the category dimension last, in float32 or better; `reduce`
applies weights, drops ignored elements and sums. All losses thereby treat targets and ignored
elements in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import (
    Number,
    check_choice,
    check_labels,
    check_range,
    scalar_normalizer,
)
from hyperfocal.types import ConfigError, DataError

Reduction = Literal["none", "sum", "mean"]


@dataclass(frozen=True)
class Inputs:
    """Checked arguments of a loss, with the categories in the last dimension.

    Attributes:
        logits: ``(..., K)`` float32, or float64 where float64 was given.
        targets: ``(...)`` int64 labels, or ``(..., K)`` floats in [0, 1].
        kept: False where a target is ignored, ``(..., 1)`` or ``(..., K)`` bool; None for float
            targets, which can't be ignored.
        weight: broadcasts against the logits, or None.
        channel_dim: the dimension of the categories in the logits passed in.
    """

    logits: Tensor
    targets: Tensor
    kept: Tensor | None
    weight: Tensor | None
    channel_dim: int


def prepare(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    channel_dim: int = -1,
    background: bool = True,
) -> Inputs:
    """Check logits, targets and weight, and move the categories last.

    Args:
        logits: floats, categories along ``channel_dim``.
        targets: integer labels of the logits' shape without ``channel_dim``: ``0..K-1`` a category,
            ``K`` background, ``-1`` ignored; or floats in [0, 1] of the logits' shape; or bools or
            integers of the logits' shape: 1 positive, 0 negative, -1 ignored.
        weight: a non-negative factor per target row (the shape of integer labels) or per logit.
        channel_dim: dimension of the categories.
        background: whether the label K is allowed.

    Raises:
        DataError: shapes, dtypes or values that don't fit. Values are only checked on the CPU, and
            not under ``torch.compile`` or ``vmap``, to avoid synchronising with an accelerator.
            There a label above K is treated as background and one below -1 as ignored.
    """
    if not logits.is_floating_point():
        raise DataError(f"logits are {logits.dtype}, but they must be floating point")
    if logits.ndim and not -logits.ndim <= channel_dim < logits.ndim:
        raise ConfigError(f"channel_dim = {channel_dim}, but the logits have {logits.ndim} dims")
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    same_shape = targets.shape == logits.shape
    move = logits.ndim > 1 and channel_dim not in (-1, logits.ndim - 1)
    if move:
        logits = logits.movedim(channel_dim, -1)
    if weight is not None:
        weight = _row_or_element(weight, logits, move and weight.ndim == logits.ndim, channel_dim)
    if same_shape:
        if move:
            targets = targets.movedim(channel_dim, -1)
        kept = None
        if targets.is_floating_point():
            check_range(targets, 0, 1, "float targets")
        elif targets.dtype != torch.bool:
            targets = targets.long()
            check_range(targets, -1, 1, "targets of the logits' shape")
            kept = targets >= 0
            targets = targets.clamp(min=0)
        return Inputs(logits, targets.to(logits.dtype), kept, weight, channel_dim)
    integer = not (targets.is_floating_point() or targets.dtype == torch.bool)
    if not integer or targets.shape != logits.shape[:-1]:
        raise DataError(
            f"targets are {targets.dtype} of shape {tuple(targets.shape)}, but with "
            f"{logits.shape[-1] if logits.ndim else 0} categories last the logits have shape "
            f"{tuple(logits.shape)}: give integer labels of shape {tuple(logits.shape[:-1])}, or "
            "floats in [0, 1] of the logits' shape"
        )
    k = logits.shape[-1]
    targets = targets.long()
    check_labels(targets, k, f"labels for {k} logits", background)
    return Inputs(logits, targets, (targets >= 0).unsqueeze(-1), weight, channel_dim)


def prepare_softmax(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, channel_dim: int = -1
) -> Inputs:
    """`prepare` for losses over a softmax: integer labels ``0..C-1`` or -1, one weight per row.

    Raises:
        DataError: shapes, dtypes or values that don't fit, or fewer than two categories.
    """
    if labels.shape == logits.shape:
        raise DataError(
            f"targets have the logits' shape {tuple(logits.shape)}, but a softmax loss takes "
            "integer labels, one per row"
        )
    inputs = prepare(logits, labels, weight, channel_dim, background=False)
    if inputs.logits.shape[-1] < 2:
        raise DataError("a softmax loss needs at least two logits per row")
    if weight is not None and weight.shape != labels.shape:
        raise DataError(
            f"weight has shape {tuple(weight.shape)}, but it must be one value per row, "
            f"{tuple(labels.shape)}"
        )
    return inputs


def prepare_boxes(
    pred: Tensor, target: Tensor, weight: Tensor | None = None, boxes: bool = False
) -> Inputs:
    """`prepare` for regression: two float tensors of one shape, in float32 or better.

    Args:
        pred: ``(..., D)``.
        target: ``(..., D)``.
        weight: ``(...)``, or ``(..., D)`` unless ``boxes``.
        boxes: whether D must be 4, with one loss per row.

    Raises:
        DataError: shapes or dtypes that don't fit.
    """
    wide = torch.float64 if pred.dtype == torch.float64 else torch.float32
    if not pred.is_floating_point() or pred.shape != target.shape or pred.ndim == 0:
        raise DataError(
            f"predictions are {pred.dtype} of shape {tuple(pred.shape)} and targets of shape "
            f"{tuple(target.shape)}, but they must be floats of one shape (..., D)"
        )
    if boxes and pred.shape[-1] != 4:
        raise DataError(f"boxes have shape {tuple(pred.shape)}, but it must be (..., 4), xyxy")
    pred, target = pred.to(wide), target.to(wide)
    if weight is not None:
        if boxes and weight.shape != pred.shape[:-1]:
            raise DataError(
                f"weight has shape {tuple(weight.shape)}, but with one value per box it must be "
                f"{tuple(pred.shape[:-1])}"
            )
        weight = _row_or_element(weight, pred, False, -1)
    return Inputs(pred, target, None, weight, -1)


def _row_or_element(weight: Tensor, logits: Tensor, move: bool, channel_dim: int) -> Tensor:
    if move:
        weight = weight.movedim(channel_dim, -1)
    if weight.shape == logits.shape:
        return weight.to(logits.dtype)
    if weight.shape == logits.shape[:-1]:
        return weight.to(logits.dtype).unsqueeze(-1)
    raise DataError(
        f"weight has shape {tuple(weight.shape)}, but it must be one value per row, "
        f"{tuple(logits.shape[:-1])}, or one per logit, {tuple(logits.shape)} (categories last)"
    )


def widest(x: Tensor) -> Tensor:
    """``x`` in float64, or unchanged on a device without it."""
    return x if x.device.type == "mps" else x.double()


def reduce(
    loss: Tensor, inputs: Inputs, reduction: Reduction, normalizer: Number | None = None
) -> Tensor:
    """Apply weights, drop ignored elements, and sum.

    Args:
        loss: ``(..., K)`` (or ``(..., 1)`` for a loss per row).
        inputs: the result of `prepare`.
        reduction: ``"none"`` keeps the shape, ``"sum"`` sums, ``"mean"`` divides the sum by the
            number of elements that aren't ignored (0 if there are none).
        normalizer: divides the result of "none" or "sum"; a positive number or a scalar tensor.

    Raises:
        ConfigError: an unknown reduction, a normalizer that isn't positive, or one with "mean".
    """
    check_choice(reduction, "reduction", Reduction)
    if normalizer is not None and reduction == "mean":
        raise ConfigError(f"normalizer = {normalizer!r} can't be combined with reduction 'mean'")
    if inputs.weight is not None:
        loss = loss * inputs.weight
    if inputs.kept is not None:
        loss = torch.where(inputs.kept, loss, 0.0)
    if reduction == "mean":
        if inputs.kept is None:
            return loss.sum() / max(loss.numel(), 1)
        per_kept = max(loss.numel(), 1) / max(inputs.kept.numel(), 1)
        return loss.sum() / (inputs.kept.sum() * per_kept).clamp(min=1)
    if reduction == "sum":
        loss = loss.sum()
    elif loss.ndim > 1 and inputs.channel_dim not in (-1, loss.ndim - 1):
        loss = loss.movedim(-1, inputs.channel_dim)
    return loss if normalizer is None else loss / scalar_normalizer(normalizer)


def reduce_rows(
    loss: Tensor, inputs: Inputs, reduction: Reduction, normalizer: Number | None = None
) -> Tensor:
    """`reduce` for ``(...)``, one loss per row."""
    out = reduce(loss.unsqueeze(-1), inputs, reduction, normalizer)
    return out.squeeze(inputs.channel_dim) if reduction == "none" else out
