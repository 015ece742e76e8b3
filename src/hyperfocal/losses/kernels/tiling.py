"""Tiling of a fused sum on a GPU, and selection of the fastest on this GPU.

The first large problem of a `Kind` on a machine times a few `Tiling`s and saves the fastest in a
file, per GPU name and versions of torch and Triton. All later processes read it, so that resumed
runs and all processes of a run sum in the same order. If the file can't be written, nothing is
timed and the first candidate is used.
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
"""Smallest problem, in logits, for which tilings are timed."""
TIMED_ROWS, TIMED_CATEGORIES = 400_000, 160
"""Size of the timed problem."""


class Cut(NamedTuple):
    """A problem split for the kernel.

    Attributes:
        elements: logits per chunk.
        step: chunks between successive chunks of a lane; a whole number of rows.
        programs: number of programs launched.
    """

    elements: int
    step: int
    programs: int


@dataclass(frozen=True)
class Tiling:
    """How problems are split.

    Attributes:
        elements: logits per chunk, which one or two threads load at once.
        chunks: chunks that a program processes at once.
        warps: warps per program.
        warps_per_processor: total number of warps per multiprocessor.
        registers: maximum per thread; None: chosen by the compiler.
    """

    elements: int
    chunks: int
    warps: int
    warps_per_processor: int
    registers: int | None = None

    def cut(self, size: int, cols: int, processors: int) -> Cut:
        """Split ``size`` logits in rows of ``cols`` for a number of multiprocessors."""
        # With fewer columns than elements a chunk would span many rows.
        elements = self.elements if cols >= self.elements - 1 else 1
        period = cols // math.gcd(cols, elements)  # chunks after which columns repeat
        wanted = processors * self.warps_per_processor // self.warps * self.chunks
        enough = -(-size // (elements * period))
        step = max(1, min(wanted // period, enough)) * period
        return Cut(elements, step, -(-step // self.chunks))


Solver = Callable[..., Any]
"""`cuda.sigmoid_sum`."""


class Kind(NamedTuple):
    """The properties of a problem that determine its fastest tiling.

    Attributes:
        dtype: dtype of the logits.
        power: whether γ is read from the table.
        sums: whether absolute gradients are summed.
        aligned: whether rows start at chunk boundaries.
    """

    dtype: torch.dtype
    power: bool
    sums: bool
    aligned: bool


def candidates(kind: Kind) -> list[Tiling]:
    """The tilings that were fastest on an H200, best first."""
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
    """The tiling for these logits ``(N, K)``, timed if the problem is large and none is saved."""
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
    """The tiling in a file, else the result of ``find``, which is saved in the file.

    If several processes call this at once, the first to write decides for all. If the file can't be
    written, ``find`` isn't called and the result is the first choice.
    """
    if (known := _read(path)) is not None:
        return known
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="tiling-") as folder:
            made = Path(folder) / "made"
            made.write_text("")  # fails before any time is spent
            best = find()
            made.write_text(json.dumps(asdict(best)))
            try:
                os.link(made, path)
            except FileExistsError:
                if _read(path) is None:  # the file is corrupt
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
        # The GPU sleeps until all calls are queued, so that launch overhead isn't measured.
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
