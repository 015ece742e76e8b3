"""Selection of the device and of the floating-point precision."""

from __future__ import annotations

import warnings
from typing import Literal

import torch

from hyperfocal.types import ConfigError, HyperfocalWarning


def find_device(name: str | int | torch.device) -> torch.device:
    """The device with this name; ``"auto"``: a CUDA device if there is one, else the CPU.

    Nothing is allocated on it: with several processes, each of them checks the first device.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    found = torch.accelerator.current_accelerator(check_available=True)
    kinds = (
        {"cpu": 1} if found is None else {"cpu": 1, found.type: torch.accelerator.device_count()}
    )
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):  # not a device name, or a number without a GPU
        device = None
    if device is None or (device.index or 0) >= kinds.get(device.type, 0):
        there = ", ".join(f"{kind} ({n})" for kind, n in kinds.items())
        raise ConfigError(f"device {name} is not available; available: {there}")
    return device


Precision = Literal["fp32", "bf16"]
Wanted = Literal["auto", "fp32", "bf16"]


def resolve(wanted: Wanted, device: torch.device | str) -> Precision:
    """The precision of the forward and backward pass on a device.

    Args:
        wanted: auto: bf16 if the device has instructions for it, else fp32. The others are
            returned unchanged.
        device: the network's device.
    """
    if wanted != "auto":
        return wanted
    return "bf16" if has_bf16(device) else "fp32"


def warn_if_emulated(wanted: Wanted, device: torch.device | str) -> None:
    """A `HyperfocalWarning` if bf16 is requested and the device has no instructions for it."""
    if wanted == "bf16" and not has_bf16(device):
        warnings.warn(
            f"train.precision = bf16, but this {torch.device(device).type} device has no bf16 "
            "instructions and emulates them, many times slower; use --train.precision auto",
            HyperfocalWarning,
            stacklevel=2,
        )


def has_bf16(device: torch.device | str) -> bool:
    """Whether a device has bf16 instructions, rather than emulating them."""
    kind = torch.device(device).type
    if kind == "cpu":
        # AVX-512, AMX and ARM's counterparts, and whether this build of torch uses them.
        supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return supported is not None and bool(supported())
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True
