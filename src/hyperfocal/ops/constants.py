"""A few numbers of the host as a tensor, without waiting for a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(
    values: Sequence[float] | float, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """``torch.tensor(values, device=device)``.

    That waits until a GPU has done all that was asked of it before, because it copies from memory
    that may change; this copies from memory that stays as it is.
    """
    made = torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return made.to(device)
    return made.pin_memory().to(device, non_blocking=True)


def constant_like(values: Sequence[float], like: Tensor) -> Tensor:
    """The same on the device and in the dtype of another tensor."""
    return constant(values, like.device, like.dtype)
