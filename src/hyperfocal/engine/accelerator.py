"""The device of a name, or a clear word that there is none."""

from __future__ import annotations

import torch

from hyperfocal.types import ConfigError


def find_device(name: str | int | torch.device) -> torch.device:
    """The device of this name; ``"auto"``: a CUDA device where there is one, else the CPU.

    Nothing is put on it yet: each of several processes looks at the first one.

    Raises:
        ConfigError: there is none of this name here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    found = torch.accelerator.current_accelerator(check_available=True)
    kinds = (
        {"cpu": 1} if found is None else {"cpu": 1, found.type: torch.accelerator.device_count()}
    )
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):  # a word that is no device's, or a number without a GPU
        device = None
    if device is None or (device.index or 0) >= kinds.get(device.type, 0):
        there = ", ".join(f"{kind} ({n})" for kind, n in kinds.items())
        raise ConfigError(f"device {name}: there is none here; there is {there}")
    return device
