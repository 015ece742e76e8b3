"""Checkpoints, which contain all that resuming a run needs. Files are written atomically."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hyperfocal.types import ConfigError, HyperfocalError, HyperfocalWarning


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file atomically: ``write`` fills a temporary file, which then replaces ``path``.

    Whenever the process dies, ``path`` is the old file or the new one, never a part of it.
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
    _sync_folder(path.parent)


def write_text_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write UTF-8 text atomically; ``errors`` as for ``str.encode``."""

    def write(part: Path) -> None:
        part.write_text(text, encoding="utf-8", errors=errors)

    write_whole(path, write)


def _sync_folder(folder: Path) -> None:
    """Flush a rename in ``folder`` to disk, where the system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows doesn't open folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems
        pass
    finally:
        os.close(descriptor)


def sweep_parts(folder: Path) -> None:
    """Delete temporary files left by a process that was killed in `write_whole`."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def attempt(write: Callable[[], None], what: object, then: str) -> bool:
    """Write something that training can continue without.

    Returns:
        Whether it was written. If not (a full disk, a read-only folder), a warning says that
        ``what`` can't be written, why, and what happens next: ``then``.
    """
    try:
        write()
    except OSError as error:
        message = f"{what}: can't be written ({error.strerror or error}); {then}"
        warnings.warn(message, HyperfocalWarning, stacklevel=2)
        return False
    return True


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, nested dicts and lists) to ``path``.

    Raises:
        OSError: it can't be written.
    """

    def write(part: Path) -> None:
        try:
            torch.save(state, part)
        except RuntimeError as error:  # torch's zip writer on a full disk
            if "StreamWriter" not in str(error) and "inline_container" not in str(error):
                raise
            raise OSError(str(error).splitlines()[0]) from None

    write_whole(path, write)


class DamagedCheckpoint(HyperfocalError):
    """A checkpoint file is damaged, or something else."""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU; no code in the file is executed.

    Raises:
        DamagedCheckpoint: a checksum is wrong, or the file isn't a checkpoint.
        HyperfocalError: the file doesn't exist or can't be read.
    """
    try:
        # torch.load verifies no checksums, and a flipped bit would go unnoticed.
        with zipfile.ZipFile(path) as archive:
            if (wrong := archive.testzip()) is not None:
                raise zipfile.BadZipFile(wrong)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise HyperfocalError(f"{path}: no such checkpoint") from None
    except OSError as error:  # the file itself may be intact
        raise HyperfocalError(f"{path}: can't be read ({error.strerror or error})") from None
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise DamagedCheckpoint(f"{path}: damaged checkpoint ({type(error).__name__})") from None
    if not isinstance(state, dict):
        raise DamagedCheckpoint(f"{path}: damaged checkpoint (no state in it)")
    return state


class Checkpoints:
    """The checkpoints of a run, ``STEP.pt``; only the newest ones are kept.

    Args:
        folder: their folder; created with the first checkpoint.
        keep: number of checkpoints to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def paths(self) -> list[Path]:
        """Paths of the checkpoints, newest first."""
        return sorted(self.folder.glob("[0-9]*.pt"), reverse=True)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save the checkpoint of ``step``, then delete the oldest ones.

        Raises:
            OSError: it can't be written; the others are unchanged.
        """
        save_checkpoint(self.folder / f"{step:08d}.pt", state)
        for path in self.paths()[self.keep :]:
            path.unlink(missing_ok=True)

    def load_newest(self) -> dict[str, Any] | None:
        """Load the newest checkpoint that isn't damaged; None if there are no checkpoints.

        Damaged ones are named in a warning and renamed to ``STEP.pt.damaged``.

        Raises:
            HyperfocalError: all are damaged, or one can't be read.
        """
        damaged: list[str] = []
        for path in self.paths():
            try:
                state = load_checkpoint(path)
            except DamagedCheckpoint as error:
                damaged.append(str(error))
                continue
            for message in damaged:
                warnings.warn(f"{message}; using {path.name}", HyperfocalWarning, stacklevel=2)
            self._put_aside(path)
            return state
        if damaged:
            raise HyperfocalError(
                f"{'; '.join(damaged)}. No intact checkpoint is left: start again with "
                "--overwrite instead of --resume"
            )
        return None

    def _put_aside(self, good: Path) -> None:
        for path in self.paths():
            if path == good:
                return
            path.replace(path.with_name(f"{path.name}.damaged"))


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

    Older runs have ``loss.*`` and ``loss_normalizer.*`` outside the criterion.
    """
    moved = {"loss.": "criterion.loss.", "loss_normalizer.": "criterion.normalizer."}
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
