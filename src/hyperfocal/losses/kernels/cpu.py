"""The fused sum on the CPU: C++ with OpenMP, compiled on first use and cached on disk.

The source doesn't include PyTorch's headers, so a build takes a few seconds and doesn't depend on
PyTorch's ABI; it is called through ctypes with the tensors' addresses. It is compiled for the
processor of this machine (``-march=native``), so the file name contains a hash of the source, the
flags and the processor. Processes may build at the same time: each writes its own file and renames
it.

Without a C++ compiler (g++, clang++, or ``CXX``) a warning is issued once, and the plain form
computes the same numbers.
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
    """Whether the kernel can be used; builds it if necessary and warns once if that fails."""
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
    """Write the gradient to ``grad``; return loss, sums ``(2, K)``, a row with a bad label or -1.

    The arguments are described in `hyperfocal.losses.kernels.function`.
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
    """Directory of the builds: ``HYPERFOCAL_CACHE``, else the user's cache directory."""
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
            "about twenty times slower. Install a C++ compiler such as g++, or set CXX",
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
    except OSError:  # the cache can't be written, or the library can't be loaded from it
        # Never a fixed path in a shared temporary directory: another user could put a file there.
        with tempfile.TemporaryDirectory(prefix="hyperfocal-") as folder:
            _build(Path(folder) / name, flags)
            return ctypes.CDLL(str(Path(folder) / name))


def _build(target: Path, flags: list[str]) -> None:
    """Compile and link to ``target``, atomically."""
    compiler = os.environ.get("CXX") or next(
        filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None
    )
    if compiler is None:
        raise RuntimeError("no C++ compiler found")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        made = Path(folder) / "made.so"
        # Linking with PyTorch's OpenMP library shares its threads; two pools would compete.
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
    # No -ffast-math: it assumes that NaNs don't occur and removes the compensated exponent.
    arithmetic = ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
    return ["-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp-simd", *machine, *arithmetic]


def _torch_openmp() -> list[Path]:
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*"), *folder.parent.glob("torch.libs/libgomp*")]
    return sorted(path for path in found if ".so" in path.name)


def _processor() -> str:
    """Description of the processor, on which ``-march=native`` depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
