"""Files of the package that one training batch and one inference image pass through.

    python benchmarks/path_length.py [--model retinanet]

Trains a small detector on the synthetic dataset and records every module of `hyperfocal` in which a
function runs, from the end of one optimizer step to the end of the next: loading and augmenting
images, forward, backward, update and logging. Then does the same for one image in
``hyperfocal.load(run).predict``. The shorter the two lists, the fewer files a reader has to open.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_post_hook

import hyperfocal
from hyperfocal.config import override
from hyperfocal.data.synthetic import SyntheticConfig, make_dataset
from hyperfocal.engine.train import train
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.folder import RunFolder

ROOT = Path(hyperfocal.__file__).parent
STEP = 3
"""The optimizer step that is recorded, after first-time initialisation."""


class FilesUsed:
    """Counts function calls by file of the package, between `start` and `stop`."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def start(self) -> None:
        sys.setprofile(self._record)

    def stop(self) -> None:
        sys.setprofile(None)

    def _record(self, frame: FrameType, event: str, argument: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(ROOT)):
            self.calls[str(Path(path).relative_to(ROOT))] += 1

    def show(self, title: str) -> None:
        print(f"{title}: {len(self.calls)} files")
        for file in sorted(self.calls):
            print(f"  {file:44} {self.calls[file]:7} calls")


def trace_training(model: str, folder: Path) -> FilesUsed:
    """Record one optimizer step of a training that only evaluates after its last step."""
    files, steps = FilesUsed(), Counter[str]()

    def after_step(*_: object) -> None:
        steps["done"] += 1
        if steps["done"] == STEP - 1:
            files.start()
        elif steps["done"] == STEP:
            files.stop()

    flags = [
        *("--data.train.annotations", str(folder / "set/train.json")),
        *("--data.train.images", str(folder / "set/train")),
        *("--data.val.annotations", str(folder / "set/val.json")),
        *("--data.val.images", str(folder / "set/val")),
        *(
            "--model",
            model,
            "--model.backbone.name",
            "test_resnet",
            "--model.backbone.no-pretrained",
        ),
        *(
            "--train.iterations",
            str(STEP + 1),
            "--train.batch-size",
            "2",
            "--train.evaluations",
            "1",
        ),
        *("--data.workers", "0", "--train.precision", "fp32"),
    ]
    experiment = override(load_recipe("demo"), flags, prog="path_length")
    hook = register_optimizer_step_post_hook(after_step)
    try:
        train(experiment, RunFolder(folder / "run"), Console(quiet=True))
    finally:
        hook.remove()
    return files


def trace_inference(folder: Path) -> FilesUsed:
    """Record the prediction of the second image with a loaded run."""
    model = hyperfocal.load(folder / "run", device="cpu")
    first, second, *_ = sorted((folder / "set/val").glob("*.jpg"))
    model.predict(first)
    files = FilesUsed()
    files.start()
    model.predict(second)
    files.stop()
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="retinanet", help="detector; default: retinanet")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(
            folder / "set",
            SyntheticConfig(num_categories=4, imbalance=2, train_images=12, val_images=4),
        )
        trace_training(args.model, folder).show(f"one training batch ({args.model})")
        trace_inference(folder).show(f"one inference image ({args.model})")


if __name__ == "__main__":
    main()
