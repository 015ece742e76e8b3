"""Training and inference speed on this machine in one table, compared with torchvision.

    python benchmarks/bench_train.py --device cuda
    python benchmarks/bench_train.py --quick        # a minute on a CPU

Rows: the fused losses as a fraction of a copy's bandwidth (`bench_losses.py`), training steps of
RetinaNet (as in `bench_step.py`), training with 1203 categories and EFL, with all logits at once
and in pieces, and inference. Medians are reported; peak memory is that of the CUDA allocator, and
isn't measured on a CPU (`bench_step.py` does).
"""

from __future__ import annotations

import argparse
import copy
import gc
import platform
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torchvision

import bench_losses
import bench_step
from hyperfocal.losses import EqualizedFocalLoss, SmoothL1Loss
from hyperfocal.models import FPN, Backbone, RetinaNet
from hyperfocal.types import Batch, Target

LVIS = 1203


def row(what: str, ours: str, theirs: str = "", ratio: str = "", note: str = "") -> None:
    print(f"| {what} | {ours} | {theirs} | {ratio} | {note} |", flush=True)


def losses(args: argparse.Namespace) -> None:
    """Fractions of the copy's bandwidth."""
    for k, logits in ((80, args.logits), (LVIS, args.logits)):
        for name in ("fp32", "bf16"):
            data = bench_losses.make_data(logits // k, k, bench_losses.DTYPES[name], args.device)
            calls = {
                key: partial(bench_losses.step, loss, *data)
                for key, loss in bench_losses.contestants(k, args.device, "eager").items()
                if key in WANTED
            }
            to = torch.empty_like(data[0])
            calls["copy", ""] = partial(bench_losses.copy, data[0], to)
            ms = {key: loss_ms(call, args) for key, call in calls.items()}
            focal, copied = ms["focal", "hyperfocal"], ms["copy", ""]
            theirs = ms["focal", "torchvision"]
            shape = f"[{logits // k}, {k}] {name}"
            row(
                f"focal loss, forward and backward, {shape}",
                f"{focal:.3f} ms, {copied / focal:.2f} of a copy",
                f"{theirs:.3f} ms, {copied / theirs:.2f}",
                f"{theirs / focal:.1f}x",
                f"copy {2 * to.numel() * to.element_size() / copied / 1e9:.2f} TB/s",
            )
            for name_of_loss in ("ce", "efl", "eqlv2_focal", "qfl"):
                own = ms[name_of_loss, "hyperfocal"]
                row(
                    f"{name_of_loss}, {shape}",
                    f"{own:.3f} ms, {copied / own:.2f} of a copy",
                    note=f"{own / focal:.2f} times focal",
                )
            del data, calls, to
            release(args)


WANTED = {("focal", "torchvision")} | {
    (name, "hyperfocal") for name in ("focal", "ce", "efl", "eqlv2_focal", "qfl")
}


def loss_ms(call: Callable[[], None], args: argparse.Namespace) -> float:
    for _ in range(2):
        call()
    times = [bench_losses.timed(call, args.device)[0] for _ in range(args.rounds * 3)]
    return statistics.median(times) * 1e3


def steps(args: argparse.Namespace) -> None:
    """Training steps and inference of both libraries."""
    for kind in args.precision:
        at = copy.copy(args)
        at.precision, at.backbone = [kind], args.backbone
        for what, batch in (("train", args.batch), ("detect", 1), ("detect", args.batch)):
            at.batch = batch
            seconds, peaks = {}, {}
            for name, build in bench_step.BUILDERS.items():
                function = build(at)[0 if what == "train" else 1]
                seconds[name], peaks[name] = measured(function, at)
                del function
                release(args)
            ours, theirs = seconds["hyperfocal"], seconds["torchvision"]
            row(
                f"{what}, {batch} images, {kind}",
                f"{batch / ours:.1f} img/s, {ours / batch * 1e3:.2f} ms per image",
                f"{batch / theirs:.1f} img/s, {theirs / batch * 1e3:.2f} ms",
                f"{theirs / ours:.2f}x",
                f"peak {peaks['hyperfocal']} against {peaks['torchvision']}",
            )


def many_categories(args: argparse.Namespace) -> None:
    """EFL with 1203 categories, all logits at once and in pieces."""
    at = copy.copy(args)
    at.precision = ["bf16"]
    images, targets = bench_step.make_data(at)
    hw = torch.tensor([images.shape[-2:]] * at.batch)
    boxes = tuple(Target(t["boxes"], t["labels"]) for t in targets)
    batch = Batch(images, hw, hw, boxes, tuple(range(at.batch))).to(at.device)
    found = {}
    for name, least in (("all logits at once", 10**9), ("in pieces, the default", 2048)):
        model = RetinaNet.Config(
            backbone=Backbone.Config(
                args.backbone, pretrained=False, norm="frozen", frozen_stages=2
            ),
            neck=FPN.Config(extra_source="p5"),
            loss=EqualizedFocalLoss.Config(),
            box_loss=SmoothL1Loss.Config(beta=0.0),
            stream_from=least,
        ).build(LVIS)
        model.to(at.device).train()
        optimizer = bench_step.optimizer_for(model)

        def train(model: RetinaNet = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            with bench_step.precision(at):
                loss = model.loss_terms(batch).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        try:
            found[name], peak = measured(train, at)
            text = f"{at.batch / found[name]:.1f} img/s"
        except torch.OutOfMemoryError:
            text, peak = "out of memory", "-"
        row(f"train, {LVIS} categories, EFL, {at.batch} images, bf16, {name}", text, note=peak)
        del model, optimizer, train
        release(args)


def measured(function: Callable[[], object], args: argparse.Namespace) -> tuple[float, str]:
    """Median seconds of a call, and the peak memory."""
    for _ in range(3 if args.device == "cuda" else 1):
        function()
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(bench_step.seconds(function, args) for _ in range(args.rounds))
    if args.device != "cuda":
        return seconds, "-"
    return seconds, f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"


def release(args: argparse.Namespace) -> None:
    gc.collect()
    if args.device == "cuda":
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--backbone", default="resnet50", help="resnet18, 34, 50, 101 or 152")
    parser.add_argument("--size", type=int, default=800, help="side of the square images, pixels")
    parser.add_argument("--batch", type=int, default=16, help="images per training step")
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=7, help="calls per median")
    parser.add_argument(
        "--logits", type=int, default=160_000_000, help="number of logits for the losses"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--only", nargs="+", choices=[*PARTS], default=[*PARTS], help="parts of the table"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to check that everything runs"
    )
    args = parser.parse_args()
    if args.quick:
        args.backbone, args.size, args.batch, args.rounds = "resnet18", 128, 2, 1
        args.logits = 500_000
    torch.set_num_threads(args.threads)
    if args.device == "cuda":  # as training does
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    print(f"{bench_losses.machine(args.device)}, {versions}, Python {platform.python_version()}")
    print(f"{args.backbone}, {args.size}x{args.size} images\n")
    print("| what | hyperfocal | torchvision | speed-up | |\n|---|---|---|---:|---|")
    for name in args.only:
        PARTS[name](args)


PARTS = {"losses": losses, "steps": steps, "many-categories": many_categories}

if __name__ == "__main__":
    main()
