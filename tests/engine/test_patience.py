"""``--train.patience``: stop after evaluations without a better AP, resumable at any of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hyperfocal.api.pictures import close_training
from hyperfocal.config import override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.engine import loop as training
from hyperfocal.engine.evaluate import Evaluation
from hyperfocal.engine.loop import TrainResult
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment, TrainConfig
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import ConfigError

NAN = float("nan")


def plan(synthetic: Path, *flags: str) -> Experiment:
    base, size = load_recipe("demo"), TransformConfig(short=64, long=64)
    config = dataclasses.replace(
        base.train, iterations=8, epochs=None, batch_size=2, evaluations=8, patience=2,
        precision="fp32", log_every=1,
    )  # fmt: skip
    data = dataclasses.replace(
        base.data,
        train=Split(synthetic / "train.json", synthetic / "train"),
        val=Split(synthetic / "val.json", synthetic / "val"),
        train_transform=size, val_transform=size, workers=0,
    )  # fmt: skip
    own = dataclasses.replace(
        base, train=config, data=data, accelerator="cpu", checkpoint_seconds=0.0, keep=99
    )
    return override(own, ["--model.backbone.name", "test_resnet", *flags], "test")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The AP of the evaluation after each step, to be filled in."""
    values: list[float] = []
    real = training.Loop.evaluate

    def evaluate(self: Any) -> bool:
        step = self.state.step

        def measure(found: Any, val: Any, counts: Any, config: Any) -> Evaluation:
            return Evaluation({"AP": values[step - 1]}, ())

        with monkeypatch.context() as patch:
            patch.setattr("hyperfocal.engine.loop.measure", measure)
            return real(self)

    monkeypatch.setattr(training.Loop, "evaluate", evaluate)
    return values


def run(experiment: Experiment, out: Path, console: Console | None = None) -> TrainResult:
    return train(experiment, RunFolder(out), console or Console(quiet=True))


def evaluated(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in RunFolder(out).log.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "evaluation"]


@pytest.mark.parametrize(
    ("aps", "ends", "best"),
    [
        ([0.1, 0.2, 0.2, 0.2], 4, 2),  # as good isn't better
        ([0.1, 0.3, 0.2, 0.4, 0.3, 0.3], 6, 4),
        ([NAN, NAN, NAN], 3, 1),  # nothing could be measured
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.5], 8, 6),
    ],
)
def test_it_stops_after_that_many_evaluations_without_a_better_one(
    synthetic: Path, tmp_path: Path, measured: list[float], aps: list[float], ends: int, best: int
) -> None:
    measured += aps
    result = run(plan(synthetic), tmp_path)
    assert result.stopped_by is None
    assert [line["step"] for line in evaluated(tmp_path)] == list(range(1, ends + 1))
    assert evaluated(tmp_path)[-1]["evaluations_since_best"] == ends - best == 2
    if ends == 8:
        assert result.early is None  # it had ended anyway
    else:
        assert result.early is not None
        assert f"step {ends} of 8" in result.early
        assert f"at step {best};" in result.early


def test_it_is_said_in_the_end_and_the_best_weights_are_kept(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[float]
) -> None:
    measured += [0.1, 0.5, 0.2, 0.2]
    console = Console(record=True, width=200, file=(tmp_path / "said").open("w"))
    saved: list[int] = []
    real = training.Recorder.write_evaluation

    def write(self: Any, *args: Any) -> None:
        before = self.run.weights.stat().st_mtime_ns if self.run.weights.exists() else 0
        real(self, *args)
        if self.run.weights.stat().st_mtime_ns != before:
            saved.append(self.state.step)

    monkeypatch.setattr(training.Recorder, "write_evaluation", write)
    result = run(plan(synthetic), tmp_path / "run", console)
    assert saved == [1, 2]
    monkeypatch.setattr("hyperfocal.api.pictures.draw_pictures", lambda result: [])
    close_training(result, console)
    assert console.export_text().count("Stopped early at step 4 of 8: no better AP in 2") == 2


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_resumed_anywhere_it_stops_at_the_same_step(
    synthetic: Path, tmp_path: Path, measured: list[float], cut: int
) -> None:
    measured += [0.1, 0.5, 0.2, 0.2]
    run(plan(synthetic), tmp_path)
    whole = evaluated(tmp_path)
    for path in RunFolder(tmp_path).checkpoints.glob("*.pt"):
        if int(path.stem) > cut:
            path.unlink()
    result = run(plan(synthetic, "--resume"), tmp_path)
    assert result.early is not None
    times = ("time",)
    assert [{k: v for k, v in line.items() if k not in times} for line in evaluated(tmp_path)] == [
        {k: v for k, v in line.items() if k not in times} for line in whole
    ]


def test_a_run_that_stopped_early_continues_with_more_patience(
    synthetic: Path, tmp_path: Path, measured: list[float]
) -> None:
    measured += [0.1, 0.5, 0.2, 0.2, 0.6, 0.7, 0.7, 0.7]
    run(plan(synthetic), tmp_path)
    again = run(plan(synthetic, "--resume"), tmp_path)
    assert again.early is not None
    assert len(evaluated(tmp_path)) == 4
    with pytest.warns(UserWarning, match=r"train\.patience = 5"):
        result = run(plan(synthetic, "--resume", "--train.patience", "5"), tmp_path)
    assert result.early is None
    assert len(evaluated(tmp_path)) == 8


def test_it_needs_a_val_split_and_evaluations_enough(synthetic: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a val split"):
        run(plan(synthetic, "--data.val.annotations", "None"), tmp_path)
    with pytest.raises(ConfigError, match=r"less than train\.evaluations \(3\)"):
        TrainConfig(epochs=1, evaluations=3, patience=3)
