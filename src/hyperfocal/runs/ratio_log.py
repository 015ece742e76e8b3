"""The log of gradient ratios: ratios.jsonl."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from hyperfocal.losses._core.memory import ratio_loss
from hyperfocal.runs.json_files import LineFile, read_lines, write_lines

POINTS = 200


def logged_steps(total: int) -> frozenset[int]:
    """Steps after which the ratios are logged: 1, 2, 5, 10, ... and `POINTS` evenly spaced ones.

    The ratios change most in the first steps; later ones change slowly, and a line of 1203
    categories is long.
    """
    early = {m * 10**e for e in range(7) for m in (1, 2, 5)}
    even = {math.ceil(total * i / POINTS) for i in range(1, POINTS + 1)}
    return frozenset(s for s in early | even if s <= total)


class RatioLog:
    """Appends a line to ratios.jsonl after some steps, for a detector whose loss has ratios.

    A line has ``step`` and, by label, ``ratio``, ``pos_grad`` and ``neg_grad`` as used in the next
    step. Other losses get no file. Lines after ``step`` are removed first, so that a resumed run
    has no duplicates.

    Args:
        path: the file.
        model: the detector.
        step: optimizer steps done so far.
        total: optimizer steps of the whole training.
    """

    def __init__(self, path: Path, model: nn.Module, step: int, total: int) -> None:
        self.loss = ratio_loss(model)
        self.steps = logged_steps(total)
        if self.loss is not None:
            write_lines(path, [line for line in read_lines(path) if line["step"] <= step])
        self.file = LineFile(path)

    def after(self, step: int) -> None:
        """Log the ratios after optimizer step ``step``, if it is one of the logged steps."""
        if self.loss is None or step not in self.steps:
            return
        line: dict[str, Any] = {"step": step}
        for name in ("ratio", "pos_grad", "neg_grad"):
            values = getattr(self.loss, name).tolist()
            line[name] = [float(f"{value:.6g}") for value in values]
        self.file.append(line)

    def sync(self) -> None:
        """Flush to disk, before a checkpoint that relies on it."""
        self.file.sync()
