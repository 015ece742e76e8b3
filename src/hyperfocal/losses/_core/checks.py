"""Checks of the losses' settings and of the values of their arguments."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
from torch import Tensor

from hyperfocal.types import ConfigError, DataError

Number = float | Tensor
"""A number, or a tensor of shape ``()`` or ``(K,)`` with one value per category."""


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
