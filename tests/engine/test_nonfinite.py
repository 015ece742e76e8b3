"""Steps that aren't finite, losses that stand out, and memory that doesn't suffice."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.components import each_dense_detector

from hyperfocal.cli import main
from hyperfocal.config import Config, override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.engine import loop
from hyperfocal.engine.loss_window import FACTOR, LEAST_STEPS, RunningRange
from hyperfocal.engine.nonfinite.blackbox import replay
from hyperfocal.engine.nonfinite.causes import broken_boxes, likely_causes
from hyperfocal.engine.step import Stepper, TrainingForward
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment, TrainConfig
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.checkpoint import Checkpoints, load_checkpoint
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import Batch, HyperfocalError, HyperfocalWarning, Target


def tiny(synthetic: Path, *flags: str) -> Experiment:
    base = load_recipe("demo")
    size = TransformConfig(short=64, long=64)
    train = dataclasses.replace(
        base.train, iterations=5, epochs=None, batch_size=4, evaluations=0, log_every=1,
        precision="fp32",
    )  # fmt: skip
    data = dataclasses.replace(
        base.data,
        train=Split(synthetic / "train.json", synthetic / "train"),
        train_transform=size,
        workers=0,
    )
    own = dataclasses.replace(
        base, train=train, data=data, accelerator="cpu", checkpoint_seconds=0.0, keep=9
    )
    return override(own, ["--model.backbone.name", "test_resnet", *flags], "test")


def run(plan: Experiment, out: Path) -> None:
    train(plan, RunFolder(out), Console(quiet=True))


def states(out: Path) -> dict[int, Any]:
    paths = Checkpoints(RunFolder(out).checkpoints).paths()
    return {int(path.stem): load_checkpoint(path) for path in paths}


def steps(out: Path) -> list[int]:
    lines = [json.loads(line) for line in RunFolder(out).log.read_text().splitlines()]
    return [line["step"] for line in lines]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a if k != "lr")
    return bool(a == b) if not isinstance(a, list) else all(map(equal, a, b))


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Put pixels that aren't finite into the batch of one step."""
    real = loop.train_batches

    def at(bad: int) -> None:
        def batches(*args: Any, start_step: int, **options: Any) -> Iterator[Batch]:
            made = real(*args, start_step=start_step, **options)
            for step, batch in enumerate(made, start=start_step):
                pixels = torch.full(batch.images.shape, math.nan)
                yield dataclasses.replace(batch, images=pixels) if step == bad else batch

        monkeypatch.setattr(loop, "train_batches", batches)

    return at


def test_stop_leaves_a_black_box_and_a_sound_checkpoint(
    synthetic: Path,
    tmp_path: Path,
    poison: Callable[[int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    poison(2)
    plan = tiny(synthetic, "--loss", "efl")
    with pytest.raises(HyperfocalError, match=r"step 3: the loss is nan(.|\n)*1\. (.|\n)*replay"):
        run(plan, tmp_path)
    box = tmp_path / "blackbox" / "step-00000002"
    names = {path.name for path in box.iterdir()}
    assert {"batch-0.pt", "weights.safetensors", "report-0.json"} <= names
    assert len([name for name in names if name.endswith(".png")]) == 4
    report = json.loads((box / "report-0.json").read_text())
    assert report["terms"] == [{"loss": None, "classification": None, "box": None}]
    assert len(report["images"]) == 4
    levels = report["classification"]["levels"]
    assert [bool(level["nonfinite"]) for level in levels] == [True] * 5
    known = {c["name"] for c in json.loads((synthetic / "train.json").read_text())["categories"]}
    named = [row["name"] for row in report["classification"]["categories"]]
    assert named
    assert set(named) <= known
    newest = max(states(tmp_path))
    assert newest == 2
    state = states(tmp_path)[2]
    assert all(v.isfinite().all() for v in state["model"].values())
    assert main(["replay", str(box / "batch-0.pt")]) == 0
    assert "not finite: gradient of" in capsys.readouterr().out


def test_replay_makes_the_same_step_to_the_bit(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Stepper.gradients, []

    def call_it_bad(self: Stepper, *args: Any, **options: Any) -> Any:
        made = real(self, *args, **options)
        if self.state.step == 3:
            seen.append(made)
            return made._replace(bad=torch.tensor(True))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "gradients", call_it_bad)
        with pytest.raises(HyperfocalError):
            run(tiny(synthetic, "--train.micro-batches", "2"), tmp_path)
    made = replay(tmp_path / "blackbox" / "step-00000003" / "batch-0.pt")
    assert not made.gradients.bad
    assert float(made.gradients.norm) == float(seen[0].norm)
    for one, other in zip(made.gradients.terms, seen[0].terms, strict=True):
        assert one.named() == other.named()


@pytest.mark.parametrize("watch", [True, False])
def test_skip_takes_every_other_step(
    synthetic: Path, tmp_path: Path, poison: Callable[[int], None], watch: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Without watching, as on one GPU, the run goes back to a checkpoint to find the step.
    monkeypatch.setattr(loop, "looks_at_each_step", lambda fabric: watch)
    poison(2)
    plan = tiny(synthetic, "--loss", "eqlv2", "--on-nonfinite", "skip", "--train.log-every", "5")
    if not watch:
        plan = dataclasses.replace(plan, checkpoint_seconds=3600.0)
    with pytest.warns(HyperfocalWarning, match="step 3: the loss is nan") as warned:
        run(plan, tmp_path / "run")
    assert len(warned) == 1
    found = states(tmp_path / "run")
    if watch:
        for part in ("model", "optimizer"):
            assert equal(found[2][part], found[3][part])
        assert not equal(found[3]["model"], found[4]["model"])
    assert steps(tmp_path / "run") == [5]
    alone = tmp_path / "alone"  # the same steps, one left out by hand
    with monkeypatch.context() as patch:
        patch.setattr(loop, "examine", lambda stepper, *_: stepper.undo() or "left out")
        with pytest.warns(HyperfocalWarning, match="left out"):
            run(dataclasses.replace(plan, checkpoint_seconds=0.0), alone)
    assert equal(states(alone)[5]["model"], found[5]["model"])
    assert equal(states(alone)[5]["optimizer"], found[5]["optimizer"])


def test_skipping_without_end_stops(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: Callable[[int], None]
) -> None:
    monkeypatch.setattr(loop, "MOST_IN_A_ROW", 1)
    poison(0)
    with pytest.raises(HyperfocalError, match="step 1"):
        run(tiny(synthetic, "--on-nonfinite", "skip"), tmp_path)


def batch_with(box: list[float]) -> Batch:
    target = Target(torch.tensor([[1.0, 1.0, 9.0, 9.0], box]), torch.tensor([0, 1]))
    size = torch.tensor([[32, 32]])
    return Batch(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), size, size, (target,), (7,))


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [0, 0, math.inf, 3], [9, 1, 2, 3], [0, 0, 9, 50]])
def test_broken_boxes_are_named(box: list[float]) -> None:
    assert broken_boxes(batch_with([0, 0, 32, 32])) == []
    (found,) = broken_boxes(batch_with(box))
    assert found.startswith("image 7: box")


def test_causes_are_ranked_by_the_evidence(synthetic: Path) -> None:
    def first(box: list[float], prior: float = 0.01, **settings: Any) -> str:
        plan = tiny(synthetic, "--model.head.prior-probability", str(prior))
        config = TrainConfig(**({"iterations": 100} | settings))
        model = plan.model.build(3)
        return likely_causes(config, model, batch_with(box), 5, 100)[0]

    good = [0.0, 0.0, 9.0, 9.0]
    assert first([3, 3, 3, 9], prior=0.5, lr=10.0).startswith("an invalid box: image 7")
    assert first(good, prior=0.5).startswith(
        "no prior: the classifier's bias gives every anchor a score of 0.50"
    )
    assert first(good, prior=0.5, lr=100.0).startswith("learning rate")
    assert first(good).startswith("learning rate: train.lr = 0.01")
    assert first(good, lr=1e-4, precision="bf16").startswith("precision")


def test_a_loss_far_above_its_range_is_a_spike_and_moves_it_little() -> None:
    generator = torch.Generator().manual_seed(0)
    usual = (1 + 0.1 * torch.randn(200, generator=generator)).tolist()
    running = RunningRange()
    assert not any(running.is_spike(loss) for loss in usual)
    mean = running.mean
    assert running.is_spike(50.0)
    assert running.mean < 1.1 * mean
    assert not running.is_spike(1.2)
    again = RunningRange(running.state())
    assert again.limit == running.limit >= FACTOR * again.mean
    young = RunningRange()
    assert not any(young.is_spike(10.0**n) for n in range(int(LEAST_STEPS)))


def test_a_spike_is_in_the_log_with_its_images(
    synthetic: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        RunningRange, "limit", property(lambda self: 0.0 if self.seen == 2 else 9e9)
    )
    train(tiny(synthetic, "--train.log-every", "5"), RunFolder(tmp_path), Console())
    (line,) = [json.loads(line) for line in RunFolder(tmp_path).log.read_text().splitlines()]
    (spike,) = line["spikes"]
    assert spike["step"] == 3
    assert len(spike["image_ids"]) == 4
    assert ".jpg" in capsys.readouterr().out


@pytest.fixture
def one_image_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    real = TrainingForward.forward

    def forward(self: TrainingForward, sealed: Any) -> Any:
        if len(sealed.batch) > 1:
            raise torch.OutOfMemoryError
        return real(self, sealed)

    monkeypatch.setattr(TrainingForward, "forward", forward)


FROZEN = ("--model.backbone.norm", "frozen", "--train.optimizer", "sgd", "--lr", "0.01")


def test_auto_micro_batches_make_the_same_global_batch(
    synthetic: Path, tmp_path: Path, one_image_fits: None
) -> None:
    run(tiny(synthetic, *FROZEN, "--train.micro-batches", "4"), tmp_path / "four")
    with pytest.warns(HyperfocalWarning, match="4 micro-batches of up to 1 images"):
        run(tiny(synthetic, *FROZEN, "--train.micro-batches", "auto"), tmp_path / "auto")
    one, other = (states(tmp_path / name)[5]["model"] for name in ("four", "auto"))
    assert equal(one, other)


def test_out_of_memory_says_what_fits(
    synthetic: Path, tmp_path: Path, one_image_fits: None
) -> None:
    with pytest.raises(
        HyperfocalError, match=r"4 of up to 1 images each fit into memory: add --train\.micro-b"
    ):
        run(tiny(synthetic), tmp_path)


def test_one_image_too_many_says_what_else_helps(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(TrainingForward, "forward", full)
    with pytest.raises(HyperfocalError, match="one image at a time: use smaller images"):
        run(tiny(synthetic, "--train.micro-batches", "auto"), tmp_path)


@each_dense_detector
def test_levels_add_up_to_the_classification_loss(synthetic: Path, config: type[Config]) -> None:
    torch.manual_seed(0)
    plan = tiny(synthetic, "--model", config.kind, *FROZEN)
    detector, batch = plan.model.build(3), batch_with([4, 4, 30, 30])
    report = detector.diagnose(batch)
    whole = float(detector(batch)["classification"])
    if detector.criterion.refine is None:  # PAA trains on a part of the candidates
        assert sum(level.loss for level in report.levels) == pytest.approx(whole, rel=1e-4)
    assert sum(level.positives for level in report.levels) == sum(
        row.positives for row in report.categories
    )
    assert all(row.gradient > 0 and row.nonfinite == 0 for row in report.categories)


def test_a_stop_before_a_rewind_is_not_forgotten(
    synthetic: Path, tmp_path: Path, poison: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(1)
    monkeypatch.setattr(loop, "looks_at_each_step", lambda fabric: False)
    gradients = Stepper.gradients

    def with_signal(self: Stepper, *args: Any, **kwargs: Any) -> Any:
        if self.state.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return gradients(self, *args, **kwargs)

    monkeypatch.setattr(Stepper, "gradients", with_signal)
    plan = tiny(synthetic, "--on-nonfinite", "skip", "--train.log-every", "9")
    result = train(plan, RunFolder(tmp_path), Console(quiet=True))
    assert result.stopped_by == "SIGTERM"
    assert max(states(tmp_path)) < 5
