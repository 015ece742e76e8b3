"""Faster R-CNN trained with every loss with logits of its own: resuming, scores, statistics."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from rich.console import Console
from tests.close import assert_near
from tests.components import OWN_LOGITS, small_flags
from torch import Tensor

import hyperfocal
from hyperfocal.config import override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment
from hyperfocal.models import FasterRCNN
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.checkpoint import Checkpoints
from hyperfocal.runs.folder import RunFolder

LOSSES = {
    **{config.kind: ("--loss", config.kind) for config in OWN_LOGITS},
    "seesaw_without": ("--loss", "seesaw", "--loss.no-objectness"),
    "eqlv2": ("--loss", "eqlv2"),
    "eqlv2_without": ("--loss", "eqlv2", "--loss.objectness", "False"),
}
"""Flags of each loss by name of the test; BAGS with cuts that divide these few categories."""
LOSSES["bags"] += ("--loss.cuts", "10", "20")
COUNTED = ("seesaw", "seesaw_without", "eqlv2")
"""Losses with statistics, without the one that a dense detector has as well."""
K = 6
each_loss = pytest.mark.parametrize("loss", LOSSES)


def experiment(synthetic: Path, loss: str, *flags: str) -> Experiment:
    """Two steps of four images each; nothing in it depends on how the batch is cut."""
    size = TransformConfig(short=96, long=96)
    base = load_recipe("demo")
    data = dataclasses.replace(
        base.data,
        train=Split(synthetic / "train.json", synthetic / "train"),
        train_transform=dataclasses.replace(size, flip=0.5),
        val_transform=size,
        workers=0,
    )
    words = (
        "--model.backbone.name test_resnet --model.backbone.norm frozen --train.epochs None "
        "--train.iterations 2 --train.batch-size 4 --train.optimizer sgd --train.lr 0.01 "
        "--train.final-lr 1 --train.warmup-iterations 0 --train.ema-decay None "
        "--train.precision fp32 --train.evaluations 0 --accelerator cpu "
        "--model.inference.score-threshold 0"
    )
    chosen = [*small_flags(FasterRCNN.Config), *LOSSES[loss], *words.split(), *flags]
    return override(dataclasses.replace(base, data=data), chosen, "test")


def run(settings: Experiment, out: Path) -> dict[str, Tensor]:
    train(settings, RunFolder(out), Console(quiet=True))
    return state(out)


def state(out: Path) -> dict[str, Tensor]:
    saved = Checkpoints(RunFolder(out).checkpoints).load_newest()
    assert saved is not None
    model: dict[str, Tensor] = saved["model"]
    return model


def statistics(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith("class_loss.")}


@each_loss
def test_resumed_equals_uninterrupted_and_detects(loss, synthetic, tmp_path, monkeypatch) -> None:
    """Bit by bit: weights, statistics, and the rows that BAGS samples."""
    settings = experiment(synthetic, loss, "--train.evaluations", "1")
    whole = run(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:  # as if asked to stop after the first step
        patch.setattr("hyperfocal.engine.loop.Loop.stopping", lambda self: self.state.step == 1)
        half = run(settings, tmp_path / "half")
    resumed = run(dataclasses.replace(settings, resume=True), tmp_path / "half")
    assert resumed.keys() == whole.keys() == half.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
    assert not torch.equal(half["roi_head.cls_logits.weight"], whole["roi_head.cls_logits.weight"])

    images = sorted((synthetic / "val").iterdir())[:3]
    found = hyperfocal.load(tmp_path / "whole").predict(images)
    scores = torch.cat([torch.as_tensor(one.scores) for one in found])
    assert len(scores) > 0
    assert ((scores >= 0) & (scores <= 1)).all()
    assert {int(label) for one in found for label in one.labels} <= set(range(K))


@pytest.mark.parametrize("loss", COUNTED)
def test_statistics_of_four_micro_batches_equal_those_of_one(loss, synthetic, tmp_path) -> None:
    settings = experiment(synthetic, loss, "--train.iterations", "1")
    one = statistics(run(settings, tmp_path / "one"))
    parts = override(settings, ["--train.micro-batches", "4"], "test")
    assert_same(statistics(run(parts, tmp_path / "four")), one)


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert any((value > 0).any() for value in expected.values())
    for name, value in expected.items():
        if value.is_floating_point():
            assert_near(got[name], value)
        else:
            assert torch.equal(got[name], value), name


def train_share(rank: int, port: int, runs: list[tuple[Experiment, Path]]) -> None:
    """Train in one of two processes, as torchrun would start it."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    for settings, out in runs:
        train(settings, RunFolder(out), Console(quiet=True))


@pytest.mark.slow
def test_statistics_of_two_processes_equal_those_of_one(synthetic, tmp_path) -> None:
    step = ("--train.iterations", "1")
    alone = {
        loss: statistics(run(experiment(synthetic, loss, *step), tmp_path / loss))
        for loss in COUNTED
    }
    shared = [
        (experiment(synthetic, loss, *step, "--devices", "2"), tmp_path / f"{loss}_shared")
        for loss in COUNTED
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mp.spawn(train_share, args=(port, shared), nprocs=2)
    for loss, (_, out) in zip(COUNTED, shared, strict=True):
        assert_same(statistics(state(out)), alone[loss])
