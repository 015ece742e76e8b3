"""Kills a small training at random moments, resumes it, and compares all files bit for bit.

    python benchmarks/faults.py [--moments 50] [--seed 0] [--losses efl eqlv2 ghm focal]

For each loss one run is not interrupted. Each further run is killed once with SIGKILL: in a step,
in an evaluation or while a checkpoint is written, in turn, at a random time; then resumed.
*Survived*: the resumed run was completed. *Identical*: the last checkpoint (weights, average,
optimizer, the loss's statistics, best metric), the best weights, metrics.json, metrics.jsonl,
ratios.jsonl and TensorBoard's scalars equal those of the uninterrupted run, bit for bit; times and
rates are ignored.

Each training is a separate process, forked from one that has imported everything. One worker
process loads the images. The exit status is 1 unless all runs survived and are identical.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from hyperfocal.config import override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.data.synthetic import SyntheticConfig, make_dataset
from hyperfocal.engine.loop import Loop
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.checkpoint import Checkpoints, load_checkpoint
from hyperfocal.runs.folder import RunFolder

PLACES = ("step", "evaluation", "checkpoint")
STEPS, EVALUATIONS = 12, 3


def experiment(data: Path, loss: str) -> Experiment:
    """A small RetinaNet with all kinds of state: average, momentum, a loss with memory."""
    base = load_recipe("demo")
    size = TransformConfig(short=64, long=64)
    flips = TransformConfig(short=64, long=64, flip=0.5, zoom=(0.7, 1.4))
    train = dataclasses.replace(
        base.train,
        epochs=None,
        iterations=STEPS,
        batch_size=4,
        evaluations=EVALUATIONS,
        log_every=3,
        precision="fp32",
        ema_decay=0.9,
    )
    settings = dataclasses.replace(
        base.data,
        train=Split(data / "train.json", data / "train"),
        val=Split(data / "val.json", data / "val"),
        train_transform=flips,
        val_transform=size,
    )
    made = dataclasses.replace(
        base,
        train=train,
        data=settings,
        accelerator="cpu",
        deterministic=True,
        checkpoint_seconds=0.0,
    )
    flags = ["--loss", loss, "--sampler", "rfs", "--model.backbone.name", "test_resnet"]
    return override(made, flags, "faults")


class Progress:
    """What a training does now, shared between processes: (place, number of visits, since when)."""

    _form = struct.Struct("iid")

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, self._form.size)  # remains shared after a fork

    def write(self, place: int, visit: int) -> None:
        self._shared[:] = self._form.pack(place, visit, time.monotonic())

    def read(self) -> tuple[int, int]:
        place, visit, _ = self._form.unpack(self._shared[:])
        return place, visit

    def follow(self) -> dict[str, list[float]]:
        """Make this process's trainings report; returns the durations of each visit."""
        seconds: dict[str, list[float]] = {place: [] for place in PLACES}

        def reporting(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                began = time.monotonic()
                self.write(PLACES.index(place), len(seconds[place]))
                try:
                    return function(*args, **kwargs)
                finally:
                    seconds[place].append(time.monotonic() - began)
                    self.write(-1, 0)

            return wrapped

        Loop.one_step = reporting("step", Loop.one_step)
        Loop.evaluate = reporting("evaluation", Loop.evaluate)
        Checkpoints.save = reporting("checkpoint", Checkpoints.save)
        return seconds


def start(plan: Experiment, out: Path, progress: Progress) -> int:
    """Train in a forked process and return its id. Its output goes to ``out``.txt."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        log = os.open(f"{out}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        seconds = progress.follow()
        train(plan, RunFolder(out), Console())
        Path(f"{out}.seconds").write_text(json.dumps(seconds))
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(pid: int) -> bool:
    """Whether the process ended without error."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@dataclass(frozen=True)
class Moment:
    """When to kill: in the ``visit``-th visit to ``place``, after a fraction of its duration."""

    place: str
    visit: int
    share: float

    def kill(self, pid: int, progress: Progress, usual: float) -> None:
        wanted = (PLACES.index(self.place), self.visit)
        while progress.read() != wanted:
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise SystemExit(f"{self}: the run ended before")
            time.sleep(0.0002)
        time.sleep(self.share * usual)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def moments(count: int, seed: int) -> Iterator[Moment]:
    """The places in turn, each with a random visit and time."""
    rng = random.Random(seed)
    visits = {"step": STEPS, "evaluation": EVALUATIONS, "checkpoint": STEPS}
    for n in range(count):
        place = PLACES[n % len(PLACES)]
        yield Moment(place, rng.randrange(visits[place]), rng.random())


def signature(out: Path) -> dict[str, str]:
    """Digests of all files of a run, without times and rates."""
    run = RunFolder(out)
    newest = load_checkpoint(Checkpoints(run.checkpoints).paths()[0])
    files = {name: getattr(run, name) for name in ("metrics", "weights", "ratios")}
    digests = {
        name: hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "none"
        for name, file in files.items()
    }
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    timeless = [
        {k: v for k, v in line.items() if k not in ("time", "images_per_second")} for line in lines
    ]
    digests["log"] = _digest(timeless)
    digests["tensorboard"] = _digest(scalars(run.tensorboard))
    for name, value in newest.items():
        digests[f"checkpoint.{name}"] = _digest(value)
    return digests


def scalars(folder: Path) -> list[Any]:
    """TensorBoard's scalars in the order they were written, without rates."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ImportError:
        return []
    found = []
    for file in sorted(folder.glob("events*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if "images_per_second" not in value.tag:
                    found.append([value.tag, event.step, value.tensor.float_val[0]])
    return found


def _digest(value: Any) -> str:
    digest = hashlib.sha256()

    def feed(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            digest.update(str((item.dtype, tuple(item.shape))).encode())
            digest.update(item.contiguous().numpy().tobytes())
        elif isinstance(item, dict):
            for key in sorted(item, key=str):
                digest.update(str(key).encode())
                feed(item[key])
        elif isinstance(item, list | tuple):
            for part in item:
                feed(part)
        else:
            digest.update(repr(item).encode())

    feed(value)
    return digest.hexdigest()


@contextmanager
def folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
    else:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--losses", nargs="+", default=["efl", "eqlv2", "ghm", "focal"])
    parser.add_argument("--out", type=Path, help="keep the runs here")
    args = parser.parse_args()
    torch.set_num_threads(1)  # no threads yet, so that forking is safe
    warnings.simplefilter("ignore", DeprecationWarning)
    survived = identical = done = 0
    with folder(args.out) as out:
        settings = SyntheticConfig(
            num_categories=6, imbalance=6, train_images=24, val_images=8, image_size=64
        )
        make_dataset(out / "data", settings)
        progress, wanted, usual = Progress(), {}, {}
        for loss in args.losses:
            alone = out / f"{loss}_alone"
            if not wait(start(experiment(out / "data", loss), alone, progress)):
                print(Path(f"{alone}.txt").read_text())
                return 1
            wanted[loss] = signature(alone)
            seconds = json.loads(Path(f"{alone}.seconds").read_text())
            usual[loss] = {place: sum(s) / len(s) for place, s in seconds.items()}
        for n, moment in enumerate(moments(args.moments, args.seed)):
            loss = args.losses[n % len(args.losses)]
            plan, path = experiment(out / "data", loss), out / f"{n:03d}_{loss}"
            moment.kill(start(plan, path, progress), progress, usual[loss][moment.place])
            ended = wait(start(dataclasses.replace(plan, resume=True), path, progress))
            differing = ["all"]
            if ended:
                found = signature(path)
                differing = [name for name in found if found[name] != wanted[loss].get(name)]
            done, survived, identical = done + 1, survived + ended, identical + (not differing)
            print(
                f"{n:3d} {loss:6s} killed in {moment.place} {moment.visit} at "
                f"{moment.share:.0%}: {'survived' if ended else 'DIED'}, "
                f"{'identical' if not differing else 'DIFFERS: ' + ', '.join(differing)}",
                flush=True,
            )
    print(f"survived {survived} of {done}, identical {identical} of {done}")
    return 0 if survived == identical == done else 1


if __name__ == "__main__":
    sys.exit(main())
