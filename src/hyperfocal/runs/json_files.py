"""JSON files, and JSON Lines files to which a run appends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hyperfocal.runs.writing import attempt, write_text_whole
from hyperfocal.types import ConfigError


def finite(value: float | None) -> float | None:
    """The value, or None for nan and infinities, which JSON doesn't have."""
    return value if value is not None and abs(value) < float("inf") else None


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically."""
    write_text_whole(path, json.dumps(data, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Decode a JSON file.

    Raises:
        ConfigError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error})") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a file, up to the first that is damaged or incomplete; none if there is no file."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                break
            if not isinstance(line, dict):
                break
            lines.append(line)
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Rewrite the file atomically."""
    write_text_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


class LineFile:
    """Appends lines to a file; while the disk is full they are kept, and none is truncated or lost.

    Args:
        path: the file; its lines are kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size if path.exists() else 0
        self.waiting = b""
        self.warned = False

    def append(self, line: dict[str, Any]) -> None:
        """Append a line, after those that could not be written yet."""
        self.waiting += json.dumps(line).encode() + b"\n"
        if self.warned:  # don't warn again
            try:
                self._write()
            except OSError:
                return
            self.warned = False
        else:
            self.warned = not attempt(
                self._write, self.path, "its lines are kept for the next attempt"
            )

    def _write(self) -> None:
        exists = self.path.exists()
        if not exists:  # not written yet, or moved away
            self.size = 0
        with open(self.path, "r+b" if exists else "wb", buffering=0) as file:
            file.truncate(self.size)  # drops the rest of a failed attempt
            file.seek(self.size)
            rest = self.waiting
            while rest:
                rest = rest[file.write(rest) or 0 :]
            self.size += len(self.waiting)
            self.waiting = b""

    def sync(self) -> None:
        """Flush to disk, before a checkpoint that relies on it."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
