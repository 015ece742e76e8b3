"""Which arithmetic a device computes in: bf16 only where it has instructions for it.

A CPU without them takes PyTorch's scalar code: a step of the demo took 11 times as long as in fp32
(docs/log.md).
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch

from hyperfocal.types import HyperfocalWarning

Precision = Literal["fp32", "bf16"]
Wanted = Literal["auto", "fp32", "bf16"]


def resolve(wanted: Wanted, device: torch.device | str) -> Precision:
    """The arithmetic of the forward and backward pass on a device.

    Args:
        wanted: auto: bf16 where the device has instructions for it, else fp32. The others are
            taken at their word.
        device: where the network is.
    """
    if wanted != "auto":
        return wanted
    return "bf16" if has_bf16(device) else "fp32"


def warn_if_emulated(wanted: Wanted, device: torch.device | str) -> None:
    """A `HyperfocalWarning` where bf16 is asked for and the device has no instructions for it."""
    if wanted == "bf16" and not has_bf16(device):
        warnings.warn(
            f"train.precision = bf16, but this {torch.device(device).type} device has no "
            "instructions for it and emulates them, many times slower; use --train.precision auto",
            HyperfocalWarning,
            stacklevel=2,
        )


def has_bf16(device: torch.device | str) -> bool:
    """Whether a device computes in bf16 rather than emulating it."""
    kind = torch.device(device).type
    if kind == "cpu":
        # AVX-512, AMX and ARM's counterparts, and whether this build of torch uses them.
        supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return supported is not None and bool(supported())
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True
