"""Loss forward and backward against torchvision, compiled torchvision and, if installed, fvcore.

    python benchmarks/bench_losses.py --threads 2 --csv benchmarks/out/losses.csv
    python benchmarks/bench_losses.py --quick

All implementations get the same logits and integer labels, and compute the summed loss and the
logits' gradient; those that need a one-hot target create it. They run alternately, so that changes
in the machine's load affect all of them, and medians are compared; on a CPU processor time is
reported as well, which other programs affect less. Peak memory is measured in a separate process,
in addition to the logits and labels, including the gradient. GB/s counts one read and one write of
the logits.

    python benchmarks/bench_losses.py --device cuda --rows 2000000 --peers eager

On a GPU the time is the GPU's own, measured with events around calls that wait in its queue; "host
ms" is the CPU time of a call until it has launched everything. "of copy" is the fraction of the
bandwidth of a copy of the logits, measured in the same run.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from hyperfocal.losses import (
    EqualizationLossV2Focal,
    EqualizedFocalLoss,
    quality_focal_loss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
)

try:  # has no wheels, so it isn't always available
    from fvcore.nn import sigmoid_focal_loss as fvcore_focal
except ImportError:
    fvcore_focal = None

Loss = Callable[[Tensor, Tensor], Tensor]
QUEUE_CYCLES = 10_000_000
"""Delay on the GPU before a call: about 5 ms."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    k = logits.shape[1]
    return F.one_hot(labels, k + 1)[:, :k].to(logits.dtype)


def torchvision_focal(logits: Tensor, labels: Tensor) -> Tensor:
    return torchvision.ops.sigmoid_focal_loss(logits, one_hot(labels, logits), reduction="sum")


def fvcore(logits: Tensor, labels: Tensor) -> Tensor:
    return fvcore_focal(logits, one_hot(labels, logits), alpha=0.25, reduction="sum")


def equalized(k: int, device: str, backend: str) -> Loss:
    loss = EqualizedFocalLoss(k, backend=backend).to(device)  # type: ignore[arg-type]
    loss.ratio.copy_(torch.linspace(0, 1, k))
    return loss


def contestants(k: int, device: str, others: str = "all") -> dict[tuple[str, str], Loss]:
    """Losses by name and implementation; ``others``: which of other libraries."""
    focal = partial(sigmoid_focal_loss, reduction="sum")
    quality = partial(quality_focal_loss, reduction="sum")
    peers: dict[tuple[str, str], Loss] = {("focal", "torchvision"): torchvision_focal}
    if others == "all":
        peers["focal", "torchvision, compiled"] = torch.compile(torchvision_focal)
    if fvcore_focal is not None:
        peers["focal", "fvcore"] = fvcore
    return peers | {
        ("focal", "hyperfocal, plain"): partial(focal, backend="plain"),
        ("focal", "hyperfocal"): partial(focal, backend="fused"),
        ("ce", "hyperfocal"): partial(sigmoid_cross_entropy, reduction="sum", backend="fused"),
        ("efl", "hyperfocal, plain"): equalized(k, device, "plain"),
        ("efl", "hyperfocal"): equalized(k, device, "fused"),
        ("eqlv2_focal", "hyperfocal"): EqualizationLossV2Focal(k, backend="fused").to(device),
        ("qfl", "hyperfocal"): partial(quality, backend="fused"),
    }


def make_data(rows: int, k: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Logits of a head at its prior of 0.01, and labels with one object in 200 rows."""
    torch.manual_seed(0)
    logits = (torch.randn(rows, k) - 4.6).to(dtype).to(device)
    labels = torch.full((rows,), k)
    objects = torch.randperm(rows)[: max(1, rows // 200)]
    labels[objects] = torch.randint(0, k, (len(objects),))
    return logits.requires_grad_(), labels.to(device)


def step(loss: Loss, logits: Tensor, labels: Tensor) -> None:
    logits.grad = None
    loss(logits, labels).backward()


def copy(logits: Tensor, to: Tensor) -> None:
    if logits.is_cuda:
        to.copy_(logits.detach())
    else:
        logits.detach().clone()


def timed(call: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds of wall and processor time; on a GPU, of the GPU and the host."""
    if device == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(QUEUE_CYCLES)  # everything is queued before it starts
        start.record()
        host = time.perf_counter()
        call()
        host = time.perf_counter() - host
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3, host
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def peak_extra(loss: str, backend: str, args: argparse.Namespace, dtype: str) -> int:
    """Peak memory in bytes besides logits and labels, measured in a separate process."""
    shape = ["--rows", str(args.rows), "--classes", str(args.classes)]
    words = [*shape, "--dtype", dtype, "--device", args.device, "--threads", str(args.threads)]
    command = [sys.executable, __file__, *words, "--measure-peak", loss, backend]
    # Without a cache of freed blocks, the memory measured is that in use.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    run = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True
    )
    return int(run.stdout.split()[-1])


def measure_peak(loss: str, backend: str, args: argparse.Namespace) -> int:
    call = contestants(args.classes, args.device)[loss, backend]
    dtype = DTYPES[args.dtype[0]]
    warm = make_data(2000, args.classes, dtype, args.device)
    step(call, *warm)
    data = make_data(args.rows, args.classes, dtype, args.device)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(call, *data)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    step(call, *data)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    width = "AVX-512" if any("avx512f" in x for x in lines) else "AVX2 or less"
    return f"{model or platform.processor()}, {torch.get_num_threads()} threads, {width}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000, help="anchors")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--peers", choices=["all", "eager"], default="all", help="all: also with torch.compile"
    )
    parser.add_argument("--no-memory", action="store_true", help="don't measure peak memory")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, few repeats")
    parser.add_argument("--csv", type=Path, help="append the results to this file")
    parser.add_argument("--measure-peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure_peak:
        print(measure_peak(*args.measure_peak, args))
        return
    if args.quick:
        args.rows, args.repeats = args.rows // 10, 5
    rows = [row for dtype in args.dtype for row in compare(args, dtype)]
    if args.csv:
        append(args.csv, rows)


def compare(args: argparse.Namespace, dtype: str) -> list[dict[str, str | float]]:
    logits, labels = make_data(args.rows, args.classes, DTYPES[dtype], args.device)
    calls = {
        key: partial(step, loss, logits, labels)
        for key, loss in contestants(args.classes, args.device, args.peers).items()
    }
    calls["copy", "torch"] = partial(copy, logits, torch.empty_like(logits))
    for call in calls.values():
        call()
    times: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in calls}
    for _ in range(args.repeats):
        for key, call in calls.items():
            times[key].append(timed(call, args.device))
    median = {
        key: tuple(statistics.median(t[i] for t in all_times) for i in (0, 1))
        for key, all_times in times.items()
    }
    size = logits.numel() * logits.element_size()
    print(f"\n{machine(args.device)}, torch {torch.__version__}")
    print(f"[{args.rows}, {args.classes}] {dtype}, {size / 1e6:.0f} MB of logits")
    second = "host ms" if args.device == "cuda" else " CPU ms"
    print(f"{'':36}     ms {second}    GB/s of copy  peak/logits  torchvision/  compiled/  fvcore/")
    copied = median["copy", "torch"][0]
    rows = []
    for (loss, backend), (wall, processor) in median.items():
        peers = [
            median.get(("focal", peer), (math.nan,))[0] / wall
            for peer in ("torchvision", "torchvision, compiled", "fvcore")
        ]
        peak = 0 if loss == "copy" or args.no_memory else peak_extra(loss, backend, args, dtype)
        print(
            f"{loss:12} {backend:23} {wall * 1e3:7.2f} {processor * 1e3:7.2f} "
            f"{2 * size / wall / 1e9:7.2f} {copied / wall:7.2f} {peak / size:12.2f} "
            + " ".join(f"{ratio:12.1f}" for ratio in peers),
            flush=True,
        )
        rows.append(
            {
                "date": datetime.date.today().isoformat(),
                "machine": machine(args.device),
                "torch": torch.__version__,
                "loss": loss,
                "backend": backend,
                "shape": f"{args.rows}x{args.classes}",
                "dtype": dtype,
                "ms": round(wall * 1e3, 3),
                "least_ms": round(min(t[0] for t in times[loss, backend]) * 1e3, 3),
                "cpu_ms": round(processor * 1e3, 3),
                "of_copy": round(copied / wall, 3),
                "gb_per_s": round(2 * size / wall / 1e9, 2),
                "peak_extra_bytes": peak,
                "torchvision_over_this": round(peers[0], 2),
                "compiled_torchvision_over_this": round(peers[1], 2),
                "fvcore_over_this": round(peers[2], 2),
            }
        )
    focal, efl = median["focal", "hyperfocal"], median["efl", "hyperfocal"]
    print(f"efl / focal: {efl[0] / focal[0]:.2f} ({second.strip()} {efl[1] / focal[1]:.2f})")
    return rows


def append(path: Path, rows: list[dict[str, str | float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
