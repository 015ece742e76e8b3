"""Checkpoints, which contain all that resuming a run needs."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from hyperfocal.runs.writing import write_whole
from hyperfocal.types import HyperfocalError, HyperfocalWarning


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
