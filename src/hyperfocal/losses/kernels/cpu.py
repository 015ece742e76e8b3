"""The fused sum on the CPU: C++ with OpenMP, compiled on first use and kept on disk.

The source knows nothing of PyTorch, so a build takes a few seconds and depends on no ABI; it is
called through ctypes with the tensors' addresses. It is compiled for the machine at hand
(``-march=native``), so the file's name holds a hash of the source, the flags and the processor. Two
processes may build at once: each writes a file of its own and moves it into place.

Without a C++ compiler (g++, clang++, or what ``CXX`` names) there is one warning, and the plain
form computes the same numbers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfocal.types import HyperfocalWarning

SOURCE = Path(__file__).with_name("sigmoid.cpp")

_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ARGUMENTS = "i pp qqqqq ppp p p p p i"
"""Types of the C function's arguments: int, pointer, 64-bit integer."""


def available() -> bool:
    """Whether the kernel is there, building it if need be; warns once where it can't be built."""
    return _library() is not None


def sigmoid_sum(
    logits: Tensor,
    labels: Tensor,
    table: Tensor,
    quality: Tensor | None,
    first: int,
    background: int,
    grad: Tensor | None,
    with_sums: bool,
) -> tuple[Tensor, Tensor, int]:
    """One pass: the gradient into ``grad``; loss, sums ``(2, K)``, a row with a bad label or -1.

    `hyperfocal.losses.kernels.function` says what the arguments are.
    """
    library = _library()
    assert library is not None
    rows, cols = logits.shape
    sums = torch.zeros((2, cols), dtype=torch.float64)
    loss = torch.zeros((), dtype=torch.float64)
    bad_row: int = library.hyperfocal_sigmoid_sum(
        _CODES[logits.dtype],
        logits.data_ptr(),
        labels.data_ptr(),
        rows,
        cols,
        logits.stride(0),
        first,
        background,
        table[0].data_ptr(),
        table[1].data_ptr(),
        table[2].data_ptr(),
        None if quality is None else quality.data_ptr(),
        None if grad is None else grad.data_ptr(),
        sums.data_ptr() if with_sums else None,
        loss.data_ptr(),
        torch.get_num_threads(),
    )
    return loss.float(), sums.float(), bad_row


def cache_dir() -> Path:
    """Where builds are kept: ``HYPERFOCAL_CACHE``, else the user's cache directory."""
    if given := os.environ.get("HYPERFOCAL_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hyperfocal"


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = _load()
        function = library.hyperfocal_sigmoid_sum
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"no fused CPU losses ({error}); the plain PyTorch form computes the same numbers, "
            "some twenty times slower. Install a C++ compiler such as g++, or name one in CXX",
            HyperfocalWarning,
            stacklevel=2,
        )
        return None
    types: dict[str, Any] = {"i": ctypes.c_int, "q": ctypes.c_int64, "p": ctypes.c_void_p}
    function.argtypes = [types[code] for code in _ARGUMENTS.replace(" ", "")]
    function.restype = ctypes.c_int64
    return library


def _load() -> ctypes.CDLL:
    flags = _flags()
    identity = "\n".join([SOURCE.read_text(), " ".join(flags), torch.__version__, _processor()])
    name = f"sigmoid-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    try:
        target = cache_dir() / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not target.exists():
            _build(target, flags)
        return ctypes.CDLL(str(target))
    except OSError:  # a cache that can't be written, or what can't be loaded from it
        # Never a shared temporary directory: what lies there ready to load may be another's.
        with tempfile.TemporaryDirectory(prefix="hyperfocal-") as folder:
            _build(Path(folder) / name, flags)
            return ctypes.CDLL(str(Path(folder) / name))


def _build(target: Path, flags: list[str]) -> None:
    """Compile and link to ``target``, whole or not at all."""
    compiler = os.environ.get("CXX") or next(
        filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None
    )
    if compiler is None:
        raise RuntimeError("no C++ compiler found")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        made = Path(folder) / "made.so"
        # Linking with PyTorch's own OpenMP library shares its threads; two pools would fight.
        attempts = [["-fopenmp", str(path)] for path in _torch_openmp()] + [["-fopenmp"], []]
        for extra in attempts:
            command = [*compiler.split(), *flags, str(SOURCE), "-o", str(made), *extra]
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=120)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise RuntimeError(f"{compiler} can't be run: {error}") from None
            if run.returncode == 0:
                os.replace(made, target)
                return
    raise RuntimeError(f"{compiler} failed: {run.stderr.strip()[:500]}")


def _flags() -> list[str]:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    machine = ["-march=native", "-mprefer-vector-width=512"] if x86 else ["-mcpu=native"]
    # No -ffast-math: it would take NaN for a number and undo the compensated exponent.
    arithmetic = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
    return ["-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp-simd", *machine, *arithmetic]


def _torch_openmp() -> list[Path]:
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*"), *folder.parent.glob("torch.libs/libgomp*")]
    return sorted(path for path in found if ".so" in path.name)


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
