"""Files of one JSON object a line, which grow while a run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hyperfocal.engine.checkpoint import attempt, write_text_whole


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file, if there is one, up to the first that is broken or cut short."""
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
    """Write the file anew, whole or not at all."""
    write_text_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


class LineFile:
    """Appends lines to a file. While the disk is full they wait, and none is cut short or lost.

    Args:
        path: the file; what it holds stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size if path.exists() else 0
        self.waiting = b""
        self.warned = False

    def append(self, line: dict[str, Any]) -> None:
        """Add a line, and those that wait."""
        self.waiting += json.dumps(line).encode() + b"\n"
        if self.warned:  # once is enough
            try:
                self._write()
            except OSError:
                return
            self.warned = False
        else:
            self.warned = not attempt(self._write, self.path, "its lines wait for the next try")

    def _write(self) -> None:
        exists = self.path.exists()
        if not exists:  # moved away, or nothing was written yet
            self.size = 0
        with open(self.path, "r+b" if exists else "wb", buffering=0) as file:
            file.truncate(self.size)  # drops a part that an earlier try left
            file.seek(self.size)
            rest = self.waiting
            while rest:
                rest = rest[file.write(rest) or 0 :]
            self.size += len(self.waiting)
            self.waiting = b""

    def sync(self) -> None:
        """Bring what was written to the disk, before a checkpoint that relies on it."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
