"""How a fused sum is cut up for a GPU, and which way is fastest on the GPU at hand.

The first large problem of a `Kind` on a machine times a few `Tiling`s and keeps the fastest in a
file, by the GPU's name and the versions of torch and Triton. All later processes read it: a run
that resumes, and the other processes of a run, add up in the same order. Where the file can't be
written, nothing is timed and the first candidate serves.
"""

from __future__ import annotations

import functools
import hashlib
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


class Kind(NamedTuple):
    """What decides which tiling is fastest.

    Attributes:
        dtype: of the logits.
        power: each category has a power of its own.
        sums: absolute gradients are summed.
        aligned: rows start where chunks do.
    """

    dtype: torch.dtype
    power: bool
    sums: bool
    aligned: bool


def candidates(kind: Kind) -> list[Tiling]:
    """The few that were fastest on an H200, the best first."""
    if kind.dtype == torch.float32:
        wide, narrow = Tiling(4, 64, 1, 24), Tiling(4, 32, 1, 32, 64)
        if kind.power:
            return [narrow, Tiling(4, 32, 1, 24)]
        return [wide, narrow] if kind.aligned else [narrow, wide]
    if kind.power:
        return [Tiling(8, 32, 1, 16), Tiling(8, 32, 1, 20, 96), Tiling(4, 32, 1, 32, 64)]
    if kind.sums:
        return [Tiling(8, 32, 1, 24), Tiling(8, 32, 1, 28), Tiling(8, 32, 1, 32, 64)]
    return [Tiling(8, 32, 1, 32, 64), Tiling(8, 32, 1, 28)]


def best_tiling(logits: Tensor, power: bool, sums: bool, solver: Solver) -> Tiling:
    """The tiling for these logits ``(N, K)``, timed where that is worth it and not known yet."""
    aligned = logits.shape[1] * logits.element_size() % 16 == 0
    kind = Kind(logits.dtype, power, sums, aligned)
    if logits.device.type != "cuda" or logits.numel() < TIMED_FROM:
        return candidates(kind)[0]
    if torch.cuda.is_current_stream_capturing():
        return candidates(kind)[0]
    return _timed(logits.device, kind, solver)


@functools.cache
def _timed(device: torch.device, kind: Kind, solver: Solver) -> Tiling:
    choices = candidates(kind)
    versions = f"torch {torch.__version__}, triton {version_of('triton')}"
    key = f"{torch.cuda.get_device_name(device)}, {versions}, {kind}, {choices}"
    name = f"tiling-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    return recall(cache_dir() / name, choices, lambda: _fastest(device, kind, solver))


def recall(path: Path, choices: list[Tiling], find: Callable[[], Tiling]) -> Tiling:
    """The tiling in a file, else what ``find`` finds, kept in the file.

    Of processes that find at once the first to write decides for all. The first choice, and nothing
    is sought, where the file can't be written.
    """
    if (known := _read(path)) is not None:
        return known
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="tiling-") as folder:
            made = Path(folder) / "made"
            made.write_text("")  # fails here, if at all, before time is spent
            best = find()
            made.write_text(json.dumps(asdict(best)))
            try:
                os.link(made, path)
            except FileExistsError:
                if _read(path) is None:  # it is broken
                    os.replace(made, path)
    except OSError:
        return choices[0]
    return _read(path) or best


def _read(path: Path) -> Tiling | None:
    try:
        return Tiling(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _fastest(device: torch.device, kind: Kind, solver: Solver) -> Tiling:
    rows, cols = TIMED_ROWS, TIMED_CATEGORIES + (not kind.aligned)
    logits = torch.full((rows, cols), -4.6, dtype=kind.dtype, device=device)
    labels = torch.full((rows,), cols, device=device)
    table = torch.full((3, cols), 1.5 if kind.power else 2.0, device=device)
    gamma = None if kind.power else 2.0

    def milliseconds(tiling: Tiling) -> float:
        start, stop = _event(), _event()
        arguments = logits, labels, table, None, 0, cols, grad, kind.sums, gamma, tiling
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
    return min(candidates(kind), key=milliseconds)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
