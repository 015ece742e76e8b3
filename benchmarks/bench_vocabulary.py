"""Last convolution and loss with many categories: the streamed head against ordinary ones.

    python benchmarks/bench_vocabulary.py --csv benchmarks/out/vocabulary.csv
    python benchmarks/bench_vocabulary.py --quick

Forward and backward of the last classification convolution and its focal loss over the pyramid of
one image, from random 256-channel maps that require gradients. Implementations:

    streamed     hyperfocal's streamed head
    joined       an ordinary head, all levels' logits joined, hyperfocal's fused loss
    plain        the same with the plain PyTorch form of the loss
    torchvision  torchvision's RetinaNet classification head (without its tower) and its loss

Each runs in separate processes: first at a small size as warm-up, then for peak memory besides that
of maps, parameters and the parameters' gradients, then for time. "peak" is memory in use: glibc is
set to return freed memory; "kept" is the same with its defaults, which keep freed blocks for later.
Implementations that would need more than --limit-gb (estimated from the logits) are skipped.
Processor time is reported beside wall time because other programs affect it less.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperfocal.losses import SigmoidFocalLoss
from hyperfocal.models.streamed import streamed_loss

CHANNELS = 256
STRIDES = (8, 16, 32, 64, 128)
PRIOR_BIAS = -4.595
TENSORS_OF_LOGITS = {"streamed": 0, "joined": 4, "plain": 13, "torchvision": 14}
"""Approximate number of tensors of the size of all logits at the peak, to estimate memory."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
"""With this, glibc returns freed memory at once, so the peak is that of memory in use."""


class Problem:
    """Maps, parameters and labels of one image."""

    def __init__(self, size: tuple[int, int], k: int, anchors: int, device: str) -> None:
        torch.manual_seed(0)
        self.k, self.anchors = k, anchors
        shapes = [[-(-side // stride) for side in size] for stride in STRIDES]
        self.features = [
            torch.randn(1, CHANNELS, h, w, device=device)
            .to(memory_format=torch.channels_last)
            .requires_grad_()
            for h, w in shapes
        ]
        self.conv = nn.Conv2d(CHANNELS, anchors * k, 3, padding=1, device=device)
        nn.init.normal_(self.conv.weight, std=0.01)
        nn.init.constant_(self.conv.bias, PRIOR_BIAS)
        self.conv.to(memory_format=torch.channels_last)
        priors = anchors * sum(h * w for h, w in shapes)
        self.labels = torch.full((1, priors), k, device=device)
        positive = torch.randperm(priors)[:100]
        self.labels[0, positive] = torch.randint(0, k, positive.shape, device=device)

    @property
    def logits_bytes(self) -> int:
        return 4 * self.labels.numel() * self.k

    def joined(self) -> Tensor:
        maps = [self.conv(f) for f in self.features]
        return torch.cat([m.permute(0, 2, 3, 1).reshape(1, -1, self.k) for m in maps], dim=1)

    def loss(self, contestant: str) -> Tensor:
        if contestant == "streamed":
            weight, bias = self.conv.weight, self.conv.bias
            loss = SigmoidFocalLoss()
            return streamed_loss(self.features, weight, bias, self.labels, loss, self.k, 100.0)
        if contestant == "torchvision":
            return self.torchvision_loss()
        backend = "fused" if contestant == "joined" else "plain"
        return SigmoidFocalLoss(backend=backend)(self.joined(), self.labels, 100.0)

    def torchvision_loss(self) -> Tensor:
        from torchvision.models.detection.retinanet import RetinaNetClassificationHead

        head = RetinaNetClassificationHead(CHANNELS, self.anchors, self.k)
        head.conv, head.cls_logits = nn.Identity(), self.conv
        # For each anchor, the index of its object, or -1 for background.
        labels = self.labels[0]
        positive = labels < self.k
        matched = torch.full_like(labels, -1)
        matched[positive] = torch.arange(int(positive.sum()), device=labels.device)
        outputs = {"cls_logits": head(self.features)}
        targets = [{"labels": labels[positive]}]
        loss: Tensor = head.compute_loss(targets, outputs, [matched])
        return loss

    def step(self, contestant: str) -> float:
        for tensor in (*self.features, *self.conv.parameters()):
            tensor.grad = None
        loss = self.loss(contestant)
        loss.backward()
        if loss.is_cuda:
            torch.cuda.synchronize()
        return loss.item()


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Measure one implementation, in this process."""
    contestant, k = args.measure[0], int(args.measure[1])
    size = (args.size[0], args.size[-1])
    Problem((64, 64), 8, 1, args.device).step(contestant)
    problem = Problem(size, k, args.anchors, args.device)
    parameters = sum(4 * p.numel() for p in problem.conv.parameters())
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = problem.step(contestant)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = resident("VmRSS")
        loss = problem.step(contestant)
        peak = resident("VmHWM") - before
    walls, processors = [], []
    for _ in range(args.repeats):
        wall, processor = time.perf_counter(), time.process_time()
        problem.step(contestant)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    times = {"s": statistics.median(walls), "cpu_s": statistics.median(processors)} if walls else {}
    return {
        "loss": loss,
        "peak_bytes": peak - parameters,
        "total_bytes": peak + parameters,
        "logits_bytes": problem.logits_bytes,
        "parameter_bytes": parameters,
    } | times


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def in_own_process(args: argparse.Namespace, contestant: str, k: int) -> dict[str, float]:
    """Memory in use from one process; memory kept by the C library, and times, from another."""
    in_use = run_process(args, contestant, k, 0, GIVE_BACK)
    usual = run_process(args, contestant, k, args.repeats, {})
    return usual | {
        "peak_bytes": in_use["peak_bytes"],
        "total_bytes": in_use["total_bytes"],
        "kept_bytes": usual["peak_bytes"],
    }


def run_process(
    args: argparse.Namespace, contestant: str, k: int, repeats: int, environment: dict[str, str]
) -> dict[str, float]:
    words = ["--measure", contestant, str(k), "--size", *map(str, args.size), "--device"]
    words += [args.device, "--threads", str(args.threads), "--anchors", str(args.anchors)]
    words += ["--repeats", str(repeats)]
    run = subprocess.run(
        [sys.executable, __file__, *words],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs="+", default=[640], help="image: side, or H W")
    parser.add_argument("--classes", type=int, nargs="+", default=[80, 365, 1203, 13204])
    parser.add_argument("--anchors", type=int, default=9, help="per location")
    parser.add_argument("--contestants", nargs="+", default=list(TENSORS_OF_LOGITS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit-gb", type=float, default=8.0)
    parser.add_argument("--quick", action="store_true", help="small image, few categories")
    parser.add_argument("--csv", type=Path, help="append the results to this file")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(measure(args)))
        return
    if args.quick:
        args.size, args.classes, args.repeats = [256], [80, 365], 2
    rows = compare(args, [*args.classes])
    if args.csv:
        append(args.csv, rows)


def compare(args: argparse.Namespace, classes: Sequence[int]) -> list[dict[str, str | float]]:
    height, width = args.size[0], args.size[-1]
    print(f"{height}x{width} image, {args.anchors} anchors per location, torch {torch.__version__}")
    print(
        f"{'K':>6} {'head':12} {'peak MB':>9} {'/plain':>7}  with parameters  kept MB"
        "        s    CPU s"
    )
    locations = sum(-(-height // s) * -(-width // s) for s in STRIDES)
    rows = []
    for k in classes:
        found = {}
        for head in args.contestants:
            gigabytes = TENSORS_OF_LOGITS[head] * 4 * k * args.anchors * locations / 1e9
            if gigabytes > args.limit_gb:
                print(f"{k:6} {head:12} skipped: would need about {gigabytes:.0f} GB")
            else:
                found[head] = in_own_process(args, head, k)
        for head, row in found.items():
            against = found["plain"]["peak_bytes"] / row["peak_bytes"] if "plain" in found else 0
            print(
                f"{k:6} {head:12} {row['peak_bytes'] / 1e6:9.1f} {against:6.1f}x "
                f"{row['total_bytes'] / 1e6:16.1f} {row['kept_bytes'] / 1e6:8.1f} "
                f"{row['s']:8.2f} {row['cpu_s']:8.2f}",
                flush=True,
            )
            rows.append(
                {
                    "date": datetime.date.today().isoformat(),
                    "torch": torch.__version__,
                    "device": args.device,
                    "threads": args.threads,
                    "image": f"{height}x{width}",
                    "anchors": args.anchors,
                    "classes": k,
                    "head": head,
                    **{name: round(value, 4) for name, value in row.items()},
                }
            )
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
