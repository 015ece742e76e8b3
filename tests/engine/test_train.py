"""The main job end to end, on drawn data: train, resume, evaluate, predict, two processes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import hyperfocal
from hyperfocal.config import override
from hyperfocal.data import Split
from hyperfocal.engine.experiment import Experiment, TrainConfig
from hyperfocal.engine.run_folder import RunFolder
from hyperfocal.engine.train import TrainResult, train
from hyperfocal.recipes import load_recipe
from hyperfocal.types import ConfigError, HyperfocalError

QUIET = Console(quiet=True)


def small(drawn: Path, *flags: str, **train_settings: Any) -> Experiment:
    """A quick experiment on the drawn set."""
    base = load_recipe("demo")
    settings: dict[str, Any] = {
        "iterations": 6, "batch_size": 4, "evaluations": 1, "log_every": 1, "precision": "fp32",
        "ema_decay": None,
    }
    data = dataclasses.replace(
        base.data,
        train=Split(drawn / "train.json", drawn / "train"),
        val=Split(drawn / "val.json", drawn / "val"),
        workers=0,
    )
    config = dataclasses.replace(base.train, epochs=None, **(settings | train_settings))
    return override(dataclasses.replace(base, train=config, data=data), flags, "test")


def run(experiment: Experiment, out: Path) -> TrainResult:
    return train(experiment, RunFolder(out), QUIET)


def lines(out: Path, kind: str = "step") -> list[dict[str, Any]]:
    logged = [json.loads(line) for line in RunFolder(out).log.read_text().splitlines()]
    return [line for line in logged if line["kind"] == kind]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in lines(out)]


def test_a_run_leaves_everything_and_reloads(drawn: Path, tmp_path: Path) -> None:
    result = run(small(drawn), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    for file in ("config", "categories", "environment", "log", "metrics", "weights", "checkpoint"):
        assert getattr(folder, file).exists(), file
    assert [line["step"] for line in lines(folder.path)] == [1, 2, 3, 4, 5, 6]
    assert result.evaluation is not None
    assert {"AP", "AP50", "APr", "APc", "APf"} <= result.evaluation.metrics.keys()

    model = hyperfocal.load(folder.path, device="cpu")
    assert [c.name for c in model.categories] == [c.name for c in result.categories]
    paths = sorted((drawn / "val").iterdir())[:3]
    for found in model.predict(paths):
        assert (found.boxes[:, :2] >= 0).all()
        assert (found.boxes <= 96).all()
        assert (found.scores.diff() <= 0).all()


def test_val_metrics_of_the_run_equal_the_evaluate_command(drawn: Path, tmp_path: Path) -> None:
    from hyperfocal.cli import main

    run(small(drawn, iterations=30), tmp_path / "run")
    out = tmp_path / "e.json"
    where = ["--data.annotations", str(drawn / "val.json"), "--data.images", str(drawn / "val")]
    assert main(["evaluate", str(tmp_path / "run"), *where, "--json", str(out)]) == 0
    trained = json.loads(RunFolder(tmp_path / "run").metrics.read_text())["metrics"]
    evaluated = json.loads(out.read_text())["metrics"]
    assert evaluated == pytest.approx(trained, abs=1e-6)


@pytest.mark.slow
def test_overfits_four_images(drawn: Path, tmp_path: Path) -> None:
    four = json.loads((drawn / "train.json").read_text())
    with_boxes = {a["image_id"] for a in four["annotations"]}
    four["images"] = [i for i in four["images"] if i["id"] in with_boxes][:4]
    kept = {i["id"] for i in four["images"]}
    four["annotations"] = [a for a in four["annotations"] if a["image_id"] in kept]
    file = tmp_path / "four.json"
    file.write_text(json.dumps(four))
    experiment = small(drawn, iterations=250, lr=2e-3)
    split = Split(file, drawn / "train")
    still = dataclasses.replace(experiment.data.train_transform, **STILL)
    data = dataclasses.replace(experiment.data, train=split, val=split, train_transform=still)
    result = run(dataclasses.replace(experiment, data=data), tmp_path / "run")
    assert result.evaluation is not None
    assert result.evaluation.metrics["AP"] > 0.95


STILL: dict[str, Any] = {}
"""Settings that turn augmentation off."""


def test_resume_goes_on_where_it_stopped(drawn: Path, tmp_path: Path) -> None:
    whole = small(drawn, iterations=8, evaluations=2)
    run(whole, tmp_path / "whole")
    stop_at(run, whole, tmp_path / "parts", step=5)
    assert len(losses(tmp_path / "parts")) == 5
    run(dataclasses.replace(whole, resume=True), tmp_path / "parts")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    assert [x["step"] for x in lines(tmp_path / "parts", "evaluation")] == [4, 8]
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "parts"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def stop_at(call: Any, experiment: Experiment, out: Path, step: int) -> None:
    """Send ourselves the interrupt of a Ctrl-C once ``step`` lines are logged."""

    def watch() -> None:
        log = RunFolder(out).log
        while not log.exists() or log.read_text().count('"step", "step"') < step:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
    result = call(experiment, out)
    assert result.stopped_by == "SIGINT"
