"""How a fused sum is cut up for a GPU, and which way is fastest on the GPU at hand.

The first large problem of a kind on a machine times a few `Tiling`s and keeps the fastest in a
file, by the GPU's name and the versions of torch and Triton. All later processes read it: a run
that resumes, and the other processes of a run, add up in the same order. Where the file can't be
written, nothing is timed and the first candidate serves.
"""

from __future__ import annotations

import functools
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperfocal.losses.kernels.cpu import cache_dir
from hyperfocal.versions import version_of

TIMED_FROM = 1 << 23
"""Logits from which a problem is worth timing for."""
TIMED_ROWS, TIMED_CATEGORIES = 400_000, 160
"""The problem that is timed."""


class Cut(NamedTuple):
    """A problem cut up for the kernel.

    Attributes:
        elements: logits of a chunk.
        step: chunks from one of a lane's to its next; whole rows.
        programs: how many are started.
    """

    elements: int
    step: int
    programs: int


@dataclass(frozen=True)
class Tiling:
    """A way to cut problems up.

    Attributes:
        elements: logits of a chunk, which one or two threads load at once.
        chunks: chunks that a program works on at once.
        warps: warps of a program.
        warps_per_processor: warps that a multiprocessor gets in all.
        registers: of a thread, at most; None: as many as the compiler wants.
    """

    elements: int
    chunks: int
    warps: int
    warps_per_processor: int
    registers: int | None = None

    def cut(self, size: int, cols: int, processors: int) -> Cut:
        """The cut of ``size`` logits in rows of ``cols`` for a GPU's multiprocessors."""
        # With fewer columns than elements a chunk would touch many rows.
        elements = self.elements if cols >= self.elements - 1 else 1
        period = cols // math.gcd(cols, elements)  # chunks after which columns are the same
        wanted = processors * self.warps_per_processor // self.warps * self.chunks
        enough = -(-size // (elements * period))
        step = max(1, min(wanted // period, enough)) * period
        return Cut(elements, step, -(-step // self.chunks))


Solver = Callable[..., Any]
"""`cuda.sigmoid_sum`."""


def candidates(itemsize: int, with_power: bool) -> list[Tiling]:
    """The few that were fastest on an H200, the best first, for logits of so many bytes."""
    if itemsize == 4:
        narrow, wide = Tiling(4, 32, 1, 32, 64), Tiling(4, 64, 1, 24)
        return [narrow, Tiling(4, 32, 1, 24)] if with_power else [wide, narrow]
    if with_power:
        return [Tiling(8, 32, 1, 16), Tiling(8, 32, 1, 20, 96), Tiling(4, 32, 1, 32, 64)]
    return [Tiling(8, 32, 1, 32, 64), Tiling(8, 32, 1, 28)]


def best_tiling(logits: Tensor, with_power: bool, with_sums: bool, solver: Solver) -> Tiling:
    """The tiling for these logits, timed where that is worth it and not known yet."""
    choices = candidates(logits.element_size(), with_power)
    if logits.device.type != "cuda" or logits.numel() < TIMED_FROM:
        return choices[0]
    return _timed(logits.device, logits.dtype, with_power, with_sums, solver)


@functools.cache
def _timed(
    device: torch.device, dtype: torch.dtype, with_power: bool, with_sums: bool, solver: Solver
) -> Tiling:
    choices = candidates(dtype.itemsize, with_power)
    name = torch.cuda.get_device_name(device)
    versions = f"torch {torch.__version__}, triton {version_of('triton')}"
    words = [name, versions, str(dtype), f"power {with_power}", f"sums {with_sums}", str(choices)]
    key = ", ".join(words)
    path = cache_dir() / "tilings.json"
    if torch.cuda.is_current_stream_capturing():
        return choices[0]
    return recall(
        path, key, choices, lambda: _fastest(device, dtype, with_power, with_sums, solver)
    )


def recall(path: Path, key: str, choices: list[Tiling], find: Callable[[], Tiling]) -> Tiling:
    """The tiling that a file holds under ``key``, else what ``find`` finds, kept in the file.

    The first choice, and nothing found, where the file can't be written.
    """
    if (known := _read(path).get(key)) is not None:
        return Tiling(**known)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix="tilings-", delete=False
        ) as file:
            try:
                best = find()
                # Another process may have been faster: what it found is what all use.
                found = _read(path)
                found.setdefault(key, asdict(best))
                json.dump(found, file, indent=1)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return choices[0]
    return Tiling(**_read(path).get(key, asdict(best)))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fastest(
    device: torch.device, dtype: torch.dtype, with_power: bool, with_sums: bool, solver: Solver
) -> Tiling:
    shape = TIMED_ROWS, TIMED_CATEGORIES
    logits = torch.full(shape, -4.6, dtype=dtype, device=device)
    labels = torch.full((shape[0],), shape[1], device=device)
    table = torch.full((3, shape[1]), 1.5 if with_power else 2.0, device=device)
    gamma = None if with_power else 2.0

    def milliseconds(tiling: Tiling) -> float:
        start, stop = _event(), _event()
        arguments = logits, labels, table, None, 0, shape[1], grad, with_sums, gamma, tiling
        solver(*arguments)  # compiles
        # The GPU waits until all calls are in its queue, so that the host's time doesn't count.
        torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(10):
            solver(*arguments)
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop))

    grad = torch.empty_like(logits)
    return min(candidates(dtype.itemsize, with_power), key=milliseconds)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
