"""Constant tensors on a GPU without synchronisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(
    values: Sequence[float] | float, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """``torch.tensor(values, device=device)``.

    ``torch.tensor`` synchronises with a GPU, because the memory that it copies may change; this
    function copies asynchronously from pinned memory.
    """
    made = torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return made.to(device)
    return made.pin_memory().to(device, non_blocking=True)


def constant_like(values: Sequence[float], like: Tensor) -> Tensor:
    """`constant` with the device and dtype of another tensor."""
    return constant(values, like.device, like.dtype)
