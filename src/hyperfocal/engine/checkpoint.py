"""Checkpoints: everything that a run needs to go on, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hyperfocal.types import ConfigError, HyperfocalError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place in one step.

    A reader sees the old file or the new one, never a part, whenever the process dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, nested dicts and lists) to ``path``."""
    write_whole(path, lambda part: torch.save(state, part))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, to the CPU; executes nothing from the file.

    Raises:
        HyperfocalError: no such file, or it is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise HyperfocalError(
            f"{path}: no checkpoint to resume from. Start without --resume."
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        raise HyperfocalError(
            f"{path}: damaged checkpoint ({type(error).__name__}). Start again without --resume."
        ) from None
    return state


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the model's parameters and buffers as safetensors."""
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_whole(path, lambda part: save_file(weights, part))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load what `save_weights` wrote into ``model``.

    Raises:
        ConfigError: the file is missing or damaged, or its tensors don't fit the model; names the
            first tensors that differ.
    """
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no weights here yet; has the run finished an evaluation?"
        ) from None
    except Exception as error:  # safetensors raises its own SafetensorError
        raise ConfigError(f"{path}: not readable as safetensors ({error})") from None
    own = model.state_dict()
    wrong = [k for k in own if k not in weights or own[k].shape != weights[k].shape]
    wrong += [k for k in weights if k not in own]
    if wrong:
        raise ConfigError(
            f"{path}: weights don't fit the model of config.json; "
            f"{len(wrong)} tensors differ, first {', '.join(wrong[:3])}"
        )
    model.load_state_dict(weights)
