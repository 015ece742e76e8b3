"""The log of a run: metrics.jsonl, and TensorBoard's files."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import LineFile, finite, read_lines, write_lines
from hyperfocal.runs.writing import attempt
from hyperfocal.types import HyperfocalWarning


class MetricsLog:
    """Appends lines to metrics.jsonl, and to TensorBoard's files if it is installed.

    Steps after ``step`` and evaluations after ``evaluated`` are removed first, so that a resumed
    run has no duplicates. TensorBoard's files are rewritten from the remaining lines: its writer
    buffers minutes of events in memory, which are lost when a process is killed.
    """

    def __init__(self, run: RunFolder, step: int, evaluated: int) -> None:
        known = {"step": step, "evaluation": evaluated}
        kept = [line for line in read_lines(run.log) if _is_up_to(line, known)]
        write_lines(run.log, kept)
        self._file = LineFile(run.log)
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        self._board = _tensorboard(run.tensorboard)
        for line in kept:
            self._draw(line)

    def write(
        self,
        kind: str,
        step: int,
        values: Mapping[str, float | None],
        spikes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Append one line with the current ``time``; a value that isn't finite becomes null."""
        line: dict[str, Any] = {"kind": kind, "step": step}
        line |= {k: finite(v) for k, v in values.items()}
        if spikes:
            line["spikes"] = list(spikes)
        line["time"] = round(time.time(), 3)
        self._file.append(line)
        self._draw(line)

    def sync(self) -> None:
        """Flush to disk, before a checkpoint that relies on it."""
        self._file.sync()

    def close(self) -> None:
        """Close the files."""
        if self._board is not None:
            attempt(self._board.close, "TensorBoard's files", "metrics.jsonl has the same values")

    def _draw(self, line: dict[str, Any]) -> None:
        if self._board is None:
            return
        try:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("step", "time"):
                    self._board.add_scalar(
                        f"{line['kind']}/{name}", value, line["step"], line.get("time")
                    )
        except OSError as error:
            self._board = None
            warnings.warn(
                f"TensorBoard's files can't be written ({error.strerror or error}); logging "
                "continues in metrics.jsonl only",
                HyperfocalWarning,
                stacklevel=3,
            )


def _is_up_to(line: Mapping[str, Any], known: Mapping[str, int]) -> bool:
    """Whether it is a valid line of the log, up to the known step."""
    kind, step = line.get("kind"), line.get("step")
    return isinstance(kind, str) and isinstance(step, int) and step <= known.get(kind, -1)


def _tensorboard(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(path))
