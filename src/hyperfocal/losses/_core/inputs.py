"""Checks, layout and reduction shared by the losses.

`prepare` checks the arguments and moves the category dimension last, in float32 or better; `reduce`
applies weights, drops ignored elements and sums. All losses thereby treat targets and ignored
elements in the same way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hyperfocal.types import ConfigError, DataError

Reduction = Literal["none", "sum", "mean"]
Number = float | Tensor
"""A number, or a tensor of shape ``()`` or ``(K,)`` with one value per category."""


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


def per_category(
    value: Number, name: str, logits: Tensor, low: float = 0.0, high: float = math.inf
) -> Number:
    """Check a setting that is one number or one value per category.

    Args:
        value: the number, or a tensor of shape ``()`` or ``(K,)``.
        name: its name in error messages.
        logits: ``(..., K)``; a tensor value is cast to their dtype.
        low: smallest value allowed.
        high: largest value allowed.

    Raises:
        ConfigError: a value out of range, a shape that doesn't fit, or a tensor that requires
            gradients (the losses treat their settings as constants).
    """
    if not isinstance(value, Tensor):
        check_scalar(value, name, low, high)
        return value
    k = logits.shape[-1] if logits.ndim else 1
    if value.shape not in ((), (k,)):
        raise ConfigError(f"{name} has shape {tuple(value.shape)}, but it must be () or ({k},)")
    if value.requires_grad:
        raise ConfigError(f"{name} requires a gradient, but the loss treats it as a constant")
    try:
        check_range(value, low, high, name)
    except DataError as error:
        raise ConfigError(str(error)) from None
    return value.to(logits.dtype)


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


def check_choice(value: object, name: str, choices: Any) -> None:
    """Raise `ConfigError` unless the value is one of those of a ``Literal``."""
    if value not in get_args(choices):
        words = ", ".join(get_args(choices))
        raise ConfigError(f"{name} = {value!r}, but it must be one of {words}")


def check_scalar(value: float, name: str, low: float = 0.0, high: float = math.inf) -> None:
    """Raise `ConfigError` unless the number lies in [low, high] and is finite."""
    if not (low <= value <= high and math.isfinite(value)):
        bounds = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ConfigError(f"{name} = {value!r}, but it must be finite and {bounds}")


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


def reduce_rows(
    loss: Tensor, inputs: Inputs, reduction: Reduction, normalizer: Number | None = None
) -> Tensor:
    """`reduce` for ``(...)``, one loss per row."""
    out = reduce(loss.unsqueeze(-1), inputs, reduction, normalizer)
    return out.squeeze(inputs.channel_dim) if reduction == "none" else out


def scalar_normalizer(normalizer: Number) -> Number:
    """Check a normalizer: a positive number, or a one-element tensor (its value isn't checked)."""
    if isinstance(normalizer, Tensor):
        if normalizer.numel() != 1:
            raise ConfigError(
                f"normalizer has shape {tuple(normalizer.shape)}, but it must be a scalar; "
                "use weight for one factor per row"
            )
        return normalizer.reshape(())
    check_scalar(normalizer, "normalizer")
    if normalizer == 0:
        raise ConfigError("normalizer = 0, but it must be positive")
    return normalizer


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


def integer_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Labels as int64: ``0..K-1`` a category, K background, -1 ignored.

    Raises:
        DataError: not integers or (on the CPU) out of range.
    """
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(f"labels are {labels.dtype}, but they must be integers")
    labels = labels.long()
    check_labels(labels, num_classes, f"labels for {num_classes} categories")
    return labels


def check_labels(labels: Tensor, num_classes: int, what: str, background: bool = True) -> None:
    """`check_range` for labels ``0..K-1``, -1 (ignored), and K if there is a background."""
    hint = "(-1 ignored, K background)" if background else "(-1 ignored)"
    check_range(labels, -1, num_classes if background else num_classes - 1, what, hint)


def check_range(values: Tensor, low: float, high: float, what: str, hint: str = "") -> None:
    """Raise `DataError` naming the first value outside [low, high].

    Args:
        values: only checked on the CPU, to avoid synchronising with an accelerator.
        low: smallest value allowed.
        high: largest value allowed.
        what: their name in the error message.
        hint: appended to the error message.
    """
    if values.device.type != "cpu" or values.numel() == 0 or torch.compiler.is_compiling():
        return
    bad = ~((values >= low) & (values <= high))  # NaN is bad too
    try:
        found = bool(bad.any())
    except RuntimeError:  # values can't be read inside vmap
        return
    if found:
        worst = values[bad].flatten()[0].item()
        raise DataError(
            f"{what} contain {worst}, but they must be in [{low:g}, {high:g}] {hint}".strip()
        )
