"""Training steps and inference against torchvision's RetinaNet: same backbone, images, settings.

    python benchmarks/bench_step.py --precision fp32 bf16

Both detectors: ResNet with frozen batch norms, its stem and first stage frozen, P6 from P5, plain
towers, focal loss and L1, 100 detections. A training step is forward, backward and SGD. The two run
alternately, so that changes in the machine's load affect both; medians are compared. Peak memory is
measured in a separate process that only runs a few steps (median of three). torchvision's resize is
switched off, and it gets float images, while hyperfocal gets uint8 images from a data loader and
converts them itself.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torchvision
from torch import nn

CLASSES = 80
PROCESSES = 3
"""Number of processes whose peak memory is measured."""
OBJECTS = 8
"""Objects in each image."""


def make_data(args: argparse.Namespace) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """uint8 images and boxes."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8)
    targets = []
    for _ in range(args.batch):
        corner = torch.rand(OBJECTS, 2) * args.size * 0.7
        size = args.size * (0.04 + 0.25 * torch.rand(OBJECTS, 2))
        boxes = torch.cat((corner, corner + size), dim=1)
        targets.append({"boxes": boxes, "labels": torch.randint(0, CLASSES, (OBJECTS,))})
    return images, targets


def spread_scores(last: nn.Conv2d) -> None:
    """Scores like a trained detector's: some thousands are above the threshold."""
    nn.init.normal_(last.weight, std=0.2)


def build_ours(args: argparse.Namespace) -> tuple[Callable[[], object], Callable[[], object]]:
    """Functions for a training step and for inference."""
    from hyperfocal.losses import SmoothL1Loss
    from hyperfocal.models import FPN, Backbone, RetinaNet
    from hyperfocal.types import Batch, Target

    model = RetinaNet.Config(
        backbone=Backbone.Config(args.backbone, pretrained=False, norm="frozen", frozen_stages=2),
        neck=FPN.Config(extra_source="p5"),
        box_loss=SmoothL1Loss.Config(beta=0.0),
    ).build(CLASSES)
    spread_scores(model.head.cls_logits)
    images, targets = make_data(args)
    hw = torch.tensor([images.shape[-2:]] * args.batch)
    boxes = tuple(Target(t["boxes"], t["labels"]) for t in targets)
    batch = Batch(images, hw, hw, boxes, tuple(range(args.batch))).to(args.device)
    model.to(args.device)
    optimizer = optimizer_for(model)

    def train() -> None:
        model.train()
        with precision(args):
            loss = model(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def detect() -> object:
        model.eval()
        with precision(args):
            return model.detect(batch)

    return train, detect


def build_theirs(args: argparse.Namespace) -> tuple[Callable[[], object], Callable[[], object]]:
    """The same for torchvision."""
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    backbone = resnet_fpn_backbone(
        backbone_name=args.backbone,
        weights=None,
        trainable_layers=3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model = RetinaNet(backbone, CLASSES, detections_per_img=100)
    model.transform.resize = lambda image, target=None: (image, target)
    spread_scores(model.head.classification_head.cls_logits)
    model.to(args.device)
    pixels, targets = make_data(args)
    images = [image.to(args.device).float() / 255 for image in pixels]
    targets = [{key: value.to(args.device) for key, value in t.items()} for t in targets]
    optimizer = optimizer_for(model)

    def train() -> None:
        model.train()
        with precision(args):
            loss = sum(model(images, [dict(t) for t in targets]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def detect() -> object:
        model.eval()
        with precision(args):
            return model(images)

    return train, detect


BUILDERS = {"hyperfocal": build_ours, "torchvision": build_theirs}


def optimizer_for(model: nn.Module) -> torch.optim.Optimizer:
    """A learning rate so low that the random weights hardly change: all steps are alike."""
    return torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-6)


def precision(args: argparse.Namespace) -> AbstractContextManager[object]:
    """Autocast for bf16."""
    if args.precision == ["bf16"]:
        return torch.autocast(torch.device(args.device).type, dtype=torch.bfloat16)
    return nullcontext()


def seconds(function: Callable[[], object], args: argparse.Namespace) -> float:
    """Time of one call."""
    synchronize = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def take_turns(
    functions: dict[str, Callable[[], object]], args: argparse.Namespace
) -> dict[str, float]:
    """Median time of each function, alternating, after one warm-up call."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(args.rounds):
        for name, function in functions.items():
            times[name].append(seconds(function, args))
    return {name: statistics.median(values) for name, values in times.items()}


def print_peak_memory(args: argparse.Namespace) -> None:
    """Run in the subprocess: prints the peak memory in MiB after a few calls."""
    function = dict(zip(("train", "detect"), BUILDERS[args.only](args), strict=True))[args.what]
    for _ in range(3):
        function()
    if args.device.startswith("cuda"):
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_memory(name: str, what: str, kind: str, args: argparse.Namespace) -> float:
    """Peak MiB of a process that only does this; the median of several, since it varies."""
    command = [sys.executable, __file__, "--only", name, "--what", what, "--precision", kind]
    for option in ("backbone", "size", "batch", "device", "threads"):
        command += [f"--{option}", str(getattr(args, option))]
    peaks = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(PROCESSES)
    ]
    return statistics.median(peaks)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="resnet50", help="resnet18, 34, 50, 101 or 152")
    parser.add_argument("--size", type=int, default=512, help="side of the square images, pixels")
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="calls of each, alternating")
    parser.add_argument("--only", choices=[*BUILDERS], help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=["train", "detect"], help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.only:
        print_peak_memory(args)
        return
    print(
        f"{args.backbone}, {args.batch} images of {args.size}x{args.size}, {CLASSES} categories, "
        f"{args.device}, {args.threads} threads, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, {platform.machine()}\n"
    )
    print(
        "| what | precision | hyperfocal | torchvision | speed-up "
        "| peak, hyperfocal | peak, torchvision | ratio |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    cases = [(what, kind) for kind in args.precision for what in ("train", "detect")]
    # Memory first: a process inherits its parent's peak, which is still small.
    peaks = {case: [peak_memory(name, *case, args) for name in BUILDERS] for case in cases}
    for kind in list(args.precision):
        args.precision = [kind]
        pairs = {name: build(args) for name, build in BUILDERS.items()}
        for i, what in enumerate(("train", "detect")):
            times = take_turns({name: pair[i] for name, pair in pairs.items()}, args)
            ours, theirs = times["hyperfocal"], times["torchvision"]
            a, b = peaks[what, kind]
            print(
                f"| {what} | {kind} | {ours:.3f} s | {theirs:.3f} s | {theirs / ours:.2f}x "
                f"| {a:.0f} MiB | {b:.0f} MiB | {a / b:.2f}x |",
                flush=True,
            )


if __name__ == "__main__":
    main()
