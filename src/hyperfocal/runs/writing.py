"""Writes files atomically: a reader finds the old file or the new one, never a part."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from hyperfocal.types import HyperfocalWarning


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
