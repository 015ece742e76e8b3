"""Weights files: model.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hyperfocal.runs.writing import write_whole
from hyperfocal.types import ConfigError


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the model's parameters and buffers as safetensors.

    Raises:
        OSError: the file can't be written.
    """
    save_tensors(path, model.state_dict())


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors.

    Raises:
        OSError: the file can't be written.
    """
    weights = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        write_whole(path, lambda part: save_file(weights, part))
    except SafetensorError as error:  # a full disk, for example
        raise OSError(str(error)) from None


def with_current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detector's state dict with current names.

    Older runs have ``loss.*`` and ``loss_normalizer.*`` outside the criterion, or
    ``criterion.normalizer.*``.
    """
    moved = {
        "loss.": "criterion.loss.",
        "loss_normalizer.": "criterion.divisors.",
        "criterion.normalizer.": "criterion.divisors.",
    }
    renamed = {}
    for name, value in state.items():
        for old, new in moved.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
        renamed[name] = value
    return renamed


def load_weights(path: Path, model: nn.Module) -> None:
    """Load weights written by `save_weights` into ``model``.

    Raises:
        ConfigError: the file is missing or damaged, or its tensors don't fit the model; names the
            first tensors that differ.
    """
    try:
        weights = with_current_names(load_file(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no weights yet; has the run finished an evaluation?") from None
    except Exception as error:  # safetensors raises its own SafetensorError
        raise ConfigError(f"{path}: not readable as safetensors ({error})") from None
    own = model.state_dict()
    wrong = [k for k in own if k not in weights or own[k].shape != weights[k].shape]
    wrong += [k for k in weights if k not in own]
    if wrong:
        raise ConfigError(
            f"{path}: weights don't fit the model in config.json: "
            f"{len(wrong)} tensors differ, such as {', '.join(wrong[:3])}"
        )
    model.load_state_dict(weights)
