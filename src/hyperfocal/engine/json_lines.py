"""Files of one JSON object a line, which grow while a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hyperfocal.engine.checkpoint import write_whole


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file, if there is one; a last one that was cut short is dropped."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write the file anew, whole or not at all."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_whole(path, lambda part: _write(part, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
