"""ratios.jsonl: the gradient ratios of the categories over the course of a training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from hyperfocal.engine.json_lines import LineFile, read_lines, write_lines
from hyperfocal.losses.memory import ratio_loss

POINTS = 200


def logged_steps(total: int) -> frozenset[int]:
    """Steps after which the ratios are written: 1, 2, 5, 10, ... and `POINTS` evenly spaced ones.

    The ratios move most in the first steps; later ones move slowly, and 1203 of them a line add up.
    """
    early = {m * 10**e for e in range(7) for m in (1, 2, 5)}
    even = {math.ceil(total * i / POINTS) for i in range(1, POINTS + 1)}
    return frozenset(s for s in early | even if s <= total)


class RatioLog:
    """Appends a line to ratios.jsonl after some steps, for a detector whose loss keeps ratios.

    A line has ``step`` and, by label, ``ratio``, ``pos_grad`` and ``neg_grad`` as the next step
    uses them. With another loss there is no file. Lines after ``step`` are dropped first, so that a
    resumed run repeats none.

    Args:
        path: the file.
        model: where the loss is found.
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
        """Write the ratios as they are after optimizer step ``step``, if it is one to be logged."""
        if self.loss is None or step not in self.steps:
            return
        line: dict[str, Any] = {"step": step}
        for name in ("ratio", "pos_grad", "neg_grad"):
            values = getattr(self.loss, name).tolist()
            line[name] = [float(f"{value:.6g}") for value in values]
        self.file.append(line)

    def sync(self) -> None:
        """Bring the lines to the disk, before a checkpoint that relies on them."""
        self.file.sync()
