"""The balance α of a loss: one number, or one a category."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperfocal.losses._core.inputs import Number
from hyperfocal.types import ConfigError

Alpha = float | None | tuple[float, ...] | str
"""In a loss's Config: a number in [0, 1]; None; one number a category, in label order; or text that
names categories, ``"cat=0.5,dog=0.2"`` or a file, which a training turns into the numbers.

With α_j for category j, positives of j weigh α_j and everything that isn't a j weighs 1 - α_j in
j's logit, so a higher α_j finds more of category j and mistakes more for it. (Varifocal loss has no
weight for positives; its α_j weighs what isn't a j.)
"""

MUST = "in [0, 1], or one such number a category"
"""What a bad value is told."""


def is_alpha(alpha: Alpha) -> bool:
    """Whether a Config may hold this; the categories that a text names aren't known here."""
    if alpha is None or isinstance(alpha, str):
        return alpha != ""
    if isinstance(alpha, tuple):
        return len(alpha) > 0 and all(0 <= value <= 1 for value in alpha)
    return 0 <= alpha <= 1


def as_number(alpha: Alpha, num_classes: int) -> Number | None:
    """What a loss of K categories computes with: a number, ``(K,)`` float32, or None.

    Raises:
        ConfigError: another number of values than categories, or a text.
    """
    if isinstance(alpha, str):
        raise ConfigError(
            f"alpha = {alpha!r} names categories, which a loss doesn't know: give one number a "
            "category, in label order"
        )
    if not isinstance(alpha, tuple):
        return alpha
    if len(alpha) != num_classes:
        raise ConfigError(
            f"alpha has {len(alpha)} values for {num_classes} categories: give one a category, "
            "one for all, or name them (cat=0.5,dog=0.2)"
        )
    return torch.tensor(alpha, dtype=torch.float32)


def keep_alpha(module: nn.Module, alpha: Number | None) -> None:
    """Make ``module.alpha``; one value a category moves with the module and is in no weights."""
    if isinstance(alpha, Tensor):
        module.register_buffer("alpha", alpha, persistent=False)
    else:
        module.alpha = alpha  # type: ignore[assignment]
