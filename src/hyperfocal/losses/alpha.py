"""The balance α of a loss: one number, or one per category."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperfocal.losses._core.checks import Number
from hyperfocal.types import ConfigError

Alpha = float | None | tuple[float, ...] | str
"""In a loss's Config: a number in [0, 1]; None; one number per category, in label order; or a
string that names categories, ``"cat=0.5,dog=0.2"`` or a file, which is resolved before training
starts.

In the logit of category j, positives are weighted by α_j and negatives by 1 - α_j, so a higher α_j
raises the recall of category j and lowers its precision. (Varifocal loss doesn't weight positives;
its α_j is the weight of negatives.)
"""

MUST = "in [0, 1], or one such number per category"
"""The allowed values, as error messages state them."""


def is_alpha(alpha: Alpha) -> bool:
    """Whether the value is valid in a Config; the category names in a string aren't checked."""
    if alpha is None or isinstance(alpha, str):
        return alpha != ""
    if isinstance(alpha, tuple):
        return len(alpha) > 0 and all(0 <= value <= 1 for value in alpha)
    return 0 <= alpha <= 1


def as_number(alpha: Alpha, num_classes: int) -> Number | None:
    """Alpha as a loss of K categories uses it: a number, ``(K,)`` float32, or None.

    Raises:
        ConfigError: the number of values differs from the number of categories, or a string.
    """
    if isinstance(alpha, str):
        raise ConfigError(
            f"alpha = {alpha!r} names categories, but a loss doesn't know the names: give one "
            "number per category, in label order"
        )
    if not isinstance(alpha, tuple):
        return alpha
    if len(alpha) != num_classes:
        raise ConfigError(
            f"alpha has {len(alpha)} values for {num_classes} categories: give one per category, "
            "a single value, or category names (cat=0.5,dog=0.2)"
        )
    return torch.tensor(alpha, dtype=torch.float32)


def keep_alpha(module: nn.Module, alpha: Number | None) -> None:
    """Set ``module.alpha``; a tensor becomes a buffer that isn't saved in the state dict."""
    if isinstance(alpha, Tensor):
        module.register_buffer("alpha", alpha, persistent=False)
    else:
        module.alpha = alpha  # type: ignore[assignment]
