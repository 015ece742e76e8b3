"""Training end to end on synthetic data: train, resume, evaluate, predict, two processes."""

from __future__ import annotations

import dataclasses
import json
import math
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
from tests.close import assert_same_steps
from tests.components import DENSE, each_detector, each_loss, kind_of, small_flags

import hyperfocal
from hyperfocal.config import Config, override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.data.splits import read_splits
from hyperfocal.device import find_device
from hyperfocal.distributed.launch import launch
from hyperfocal.engine.evaluate import Evaluation
from hyperfocal.engine.loop import TrainResult
from hyperfocal.engine.optim import build_optimizer
from hyperfocal.engine.recorder import Recorder
from hyperfocal.engine.state import TrainState
from hyperfocal.engine.step import micro_batches
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment, TrainConfig
from hyperfocal.models import DenseConfig, FasterRCNN
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.checkpoint import Checkpoints
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import ConfigError, HyperfocalError, HyperfocalWarning

QUIET = Console(quiet=True)
ALL_SCORES = ("--model.inference.score-threshold", "0")
"""After a few steps no score reaches the usual threshold, and there would be no detections."""


def small(synthetic: Path, *flags: str, **train_settings: Any) -> Experiment:
    """A quick experiment on the synthetic dataset."""
    base = load_recipe("demo")
    settings: dict[str, Any] = {
        "iterations": 6,
        "batch_size": 4,
        "evaluations": 1,
        "log_every": 1,
        "precision": "fp32",
        "ema_decay": None,
    }
    data = dataclasses.replace(
        base.data,
        train=Split(synthetic / "train.json", synthetic / "train"),
        val=Split(synthetic / "val.json", synthetic / "val"),
        train_transform=TransformConfig(short=96, long=96, flip=0.5),
        val_transform=TransformConfig(short=96, long=96),
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


def test_a_run_leaves_everything_and_reloads(synthetic: Path, tmp_path: Path) -> None:
    result = run(small(synthetic, *ALL_SCORES), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    for file in ("config", "categories", "environment", "log", "metrics", "weights", "checkpoints"):
        assert getattr(folder, file).exists(), file
    assert [line["step"] for line in lines(folder.path)] == [1, 2, 3, 4, 5, 6]
    assert result.evaluation is not None
    assert {"AP", "AP50", "APr", "APc", "APf"} <= result.evaluation.metrics.keys()

    model = hyperfocal.load(folder.path, device="cpu")
    assert [c.name for c in model.categories] == [c.name for c in result.splits.train.categories]
    paths = sorted((synthetic / "val").iterdir())[:3]
    for found in model.predict(paths):
        assert len(found) > 50
        assert (found.boxes[:, :2] >= 0).all()
        assert (found.boxes[:, :2] < found.boxes[:, 2:]).all()
        assert (found.boxes <= 96).all()
        assert (found.scores.diff() <= 0).all()


@pytest.mark.filterwarnings("ignore:.*equals plain focal loss")  # after four steps
@each_detector
def test_every_detector_trains_resumes_and_predicts(
    synthetic: Path, tmp_path: Path, config: type[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*small_flags(config), "--loss", "efl", "--sampler", "rfs", *ALL_SCORES)
    whole = small(synthetic, *flags, iterations=4, micro_batches=2)
    run(whole, tmp_path / "whole")
    saved = json.loads(RunFolder(tmp_path / "whole").config.read_text())
    assert (saved["model"]["kind"], saved["model"]["loss"]["kind"]) == (config.kind, "efl")
    assert saved["data"]["sampler"]["kind"] == "rfs"
    with monkeypatch.context() as patch:  # as if asked to stop after the second step
        patch.setattr("hyperfocal.engine.loop.Loop.stopping", lambda self: self.state.step == 2)
        run(whole, tmp_path / "parts")
    assert len(losses(tmp_path / "parts")) == 2
    run(dataclasses.replace(whole, resume=True), tmp_path / "parts")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    loaded = hyperfocal.load(tmp_path / "parts", device="cpu")
    (found,) = loaded.predict(sorted((synthetic / "val").iterdir())[:1])
    assert len(found) > 50
    assert (found.boxes >= 0).all()
    assert (found.boxes <= 96).all()


def test_val_metrics_of_the_run_equal_the_evaluate_command(synthetic: Path, tmp_path: Path) -> None:
    from hyperfocal.cli import main

    run(small(synthetic, *ALL_SCORES, iterations=30), tmp_path / "run")
    out = tmp_path / "e.json"
    where = [
        "--data.annotations",
        str(synthetic / "val.json"),
        "--data.images",
        str(synthetic / "val"),
    ]
    assert main(["evaluate", str(tmp_path / "run"), *where, "--json", str(out)]) == 0
    trained = json.loads(RunFolder(tmp_path / "run").metrics.read_text())["metrics"]
    evaluated = json.loads(out.read_text())["metrics"]
    numbers = {name: value for name, value in trained.items() if value is not None}
    assert min(numbers[name] for name in ("AP", "AP50", "APr", "APc", "AR1", "AR100")) > 1e-3
    assert evaluated.keys() == trained.keys()
    assert {name: evaluated[name] for name in numbers} == pytest.approx(numbers, rel=1e-6)
    assert {evaluated[name] for name in trained.keys() - numbers.keys()} == {None}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:4 images of 4:hyperfocal.types.HyperfocalWarning")
@pytest.mark.parametrize("config", [*DENSE, FasterRCNN.Config], ids=kind_of)
def test_detectors_with_anchors_overfit_four_images(
    synthetic: Path, tmp_path: Path, config: type[DenseConfig]
) -> None:
    """With anchors of 24 pixels and more, as the synthetic objects are; FCOS has no anchors."""
    scales = config().anchors.base_scales
    if scales != (1.0,):
        scales = (2.0, 3.0)[-len(scales) :] if config in DENSE else (6.0,)
    four = json.loads((synthetic / "train.json").read_text())
    with_boxes = {a["image_id"] for a in four["annotations"]}
    four["images"] = [i for i in four["images"] if i["id"] in with_boxes][:4]
    kept = {i["id"] for i in four["images"]}
    four["annotations"] = [a for a in four["annotations"] if a["image_id"] in kept]
    file = tmp_path / "four.json"
    file.write_text(json.dumps(four))
    flags = (*small_flags(config), "--model.anchors.base-scales", *map(str, scales))
    network = ("--model.backbone.name", "lcnet_050")
    steps = 160
    if config is FasterRCNN.Config:
        flags += ("--model.roi-head.fc-channels", "128", "--model.roi-head.samples", "64")
        steps = 300
    experiment = small(synthetic, *flags, *network, iterations=steps, lr=2e-3, ema_decay=0.9)
    split = Split(file, synthetic / "train")
    still = TransformConfig(short=96, long=96)
    data = dataclasses.replace(experiment.data, train=split, val=split, train_transform=still)
    result = run(dataclasses.replace(experiment, data=data), tmp_path / "run")
    assert result.evaluation is not None
    # The gradient of YOLOX's 1 - IoU² is small for boxes that are nearly right.
    name = "AP50" if config.kind == "yolox" else "AP"
    # Faster R-CNN's boxes reach 0.93 to 0.98 in this time, all at IoU 0.5.
    least = 0.85 if config is FasterRCNN.Config else 0.95
    assert result.evaluation.metrics["AP50"] > 0.95
    assert result.evaluation.metrics[name] > least


def test_interrupted_and_resumed_equals_uninterrupted(synthetic: Path, tmp_path: Path) -> None:
    whole = small(synthetic, iterations=60, evaluations=2, ema_decay=0.9)
    run(whole, tmp_path / "whole")
    interrupt_when_logged(tmp_path / "parts", lines_wanted=20)
    stopped = run(whole, tmp_path / "parts")
    assert stopped.stopped_by == "SIGINT"
    assert 20 <= len(losses(tmp_path / "parts")) < 60
    with pytest.raises(ConfigError, match=r"already contains a run\. Add --resume"):
        run(whole, tmp_path / "parts")
    run(dataclasses.replace(whole, resume=True), tmp_path / "parts")
    assert [x["step"] for x in lines(tmp_path / "parts")] == list(range(1, 61))
    assert [x["step"] for x in lines(tmp_path / "parts", "evaluation")] == [30, 60]
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


def interrupt_when_logged(out: Path, lines_wanted: int) -> None:
    """Send SIGINT to this process once the run has logged some steps."""

    def watch() -> None:
        log = RunFolder(out).log
        while not log.exists() or len(log.read_text().splitlines()) < lines_wanted:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def test_micro_batches_and_workers_change_nothing(synthetic: Path, tmp_path: Path) -> None:
    # SGD: Adam turns the rounding of a gradient that should be 0 into a whole step.
    same = {"optimizer": "sgd", "lr": 0.01}
    frozen = ("--model.backbone.norm", "frozen")
    run(small(synthetic, *frozen, **same), tmp_path / "one")
    run(
        small(synthetic, *frozen, "--data.workers", "2", **same, micro_batches=3),
        tmp_path / "three",
    )
    assert losses(tmp_path / "three") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_micro_batches_cover_the_batch_evenly() -> None:
    for images in range(1, 9):
        for parts in range(1, 9):
            slices = micro_batches(images, parts)
            sizes = [s.stop - s.start for s in slices]
            assert [i for s in slices for i in range(images)[s]] == list(range(images))
            assert max(sizes) - min(sizes) <= 1
            assert len(sizes) == min(images, parts)


def command(synthetic: Path, out: Path, *flags: str) -> list[str]:
    """`hyperfocal train` on the synthetic dataset, as typed in a terminal."""
    settings = {
        "--data.train.annotations": synthetic / "train.json",
        "--data.train.images": synthetic / "train",
        "--data.val.annotations": synthetic / "val.json", "--data.val.images": synthetic / "val",
        "--out": out, "--train.iterations": 6, "--train.epochs": None, "--train.batch-size": 4,
        "--train.evaluations": 1, "--train.log-every": 1,
        "--train.optimizer": "sgd", "--train.lr": 0.01, "--train.precision": "fp32",
        "--data.workers": 0, "--model.backbone.norm": "frozen", "--accelerator": "cpu",
        "--data.train-transform.short": 96, "--data.val-transform.short": 96,
    }  # fmt: skip
    words = [str(word) for pair in settings.items() for word in pair]
    return ["train", "demo", *words, *flags]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": free_port()}
    return subprocess.run(
        [sys.executable, "-m", *words], env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "model"),
    [("devices", "retinanet"), ("torchrun", "retinanet"), ("devices", "paa")],
)
def test_two_processes_equal_one(
    synthetic: Path, tmp_path: Path, launcher: str, model: str
) -> None:
    model_flags = ("--model", model, *ALL_SCORES)
    flags = command(synthetic, tmp_path / "one", *model_flags)
    one = run(override(load_recipe("demo"), flags[2:], "test"), tmp_path / "one")
    words = command(synthetic, tmp_path / "two", *model_flags, "--devices", "2")
    port = f"--master-port={free_port()}"
    torchrun = ["torch.distributed.run", "--nproc-per-node=2", port, "-m", "hyperfocal.cli"]
    done = start(*(["hyperfocal.cli"] if launcher == "devices" else torchrun), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert one.evaluation is not None
    metrics = json.loads(RunFolder(tmp_path / "two").metrics.read_text())["metrics"]
    # Scores that rounding makes differ may change places.
    assert metrics["AR100"] == pytest.approx(one.evaluation.metrics["AR100"], rel=0.1)
    assert model == "paa" or metrics["AR100"] > 0.01  # whose boxes take more steps
    still = ("--train.lr", "1e-30", "--train.evaluations", "0")
    run(override(load_recipe("demo"), [*flags[2:], *still], "test"), tmp_path / "start")
    before, weights, theirs = (
        load_file(RunFolder(tmp_path / name).weights) for name in ("start", "one", "two")
    )
    assert_same_steps(theirs, weights, before)
    assert done.stdout.count("step 6/6") == 1  # one process talks


def test_a_loss_that_is_not_finite_stops_the_run_with_causes(
    synthetic: Path, tmp_path: Path
) -> None:
    wild = small(synthetic, lr=1e12, optimizer="sgd", clip_norm=None, iterations=40, evaluations=0)
    with pytest.raises(HyperfocalError, match=r"the loss is (nan|inf)[^$]*lr = 1e\+12"):
        run(wild, tmp_path / "run")
    assert not RunFolder(tmp_path / "run").weights.exists()


def test_same_seed_same_run_and_another_seed_another(synthetic: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        experiment = dataclasses.replace(small(synthetic), seed=seed, deterministic=True)
        run(experiment, tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("decay", [None, 0.5])
def test_without_a_val_split_the_last_weights_are_kept(
    synthetic: Path, tmp_path: Path, decay: float | None
) -> None:
    experiment = small(synthetic, *ALL_SCORES, ema_decay=decay, evaluations=2)
    data = dataclasses.replace(experiment.data, val=Split())
    result = run(dataclasses.replace(experiment, data=data), tmp_path / "run")
    assert result.evaluation is None
    folder = RunFolder(tmp_path / "run")
    last = Checkpoints(folder.checkpoints).load_newest()
    assert last is not None
    assert last["step"] == 6
    kept, averaged = load_file(folder.weights), last["average"]
    expected = last["model"] if averaged is None else averaged["model"]
    assert kept.keys() == expected.keys()
    assert all(kept[name].equal(value) for name, value in expected.items())
    (found,) = hyperfocal.load(folder.path, device="cpu").predict(synthetic / "val" / "000001.jpg")
    assert len(found) > 50


@pytest.mark.filterwarnings("ignore:.*equals plain")  # after six steps
@each_loss
def test_every_loss_trains_by_its_flag(
    synthetic: Path, tmp_path: Path, config: type[Config]
) -> None:
    flags = ("--loss", config.kind, "--sampler", "rfs", "--model.backbone.name", "test_resnet")
    run(small(synthetic, *flags), tmp_path / "run")
    assert all(map(math.isfinite, losses(tmp_path / "run")))
    saved = json.loads(RunFolder(tmp_path / "run").config.read_text())
    assert saved["model"]["loss"]["kind"] == config.kind
    assert saved["data"]["sampler"]["kind"] == "rfs"


def test_every_process_needs_an_image(synthetic: Path, tmp_path: Path) -> None:
    experiment = dataclasses.replace(small(synthetic, batch_size=3), devices=4, accelerator="cpu")
    with pytest.raises(ConfigError, match=r"batch_size = 3 is less than one image for each of 4"):
        run(experiment, tmp_path / "run")


def test_train_config_needs_one_length() -> None:
    with pytest.raises(ConfigError, match="must be given, or epochs"):
        TrainConfig()


def test_lvis_protocol_without_lvis_lists_is_an_error_before_the_first_step(
    synthetic: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="neg_category_ids"):
        run(small(synthetic, "--evaluation.protocol", "lvis"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_that_nothing_measured_give_way_to_measured_ones(
    synthetic: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(small(synthetic, iterations=1, evaluations=0), out)
    before = RunFolder(out).weights.read_bytes()
    with pytest.warns(
        HyperfocalWarning, match="settings that differ from those it was started with"
    ):
        result = run(small(synthetic, "--resume", iterations=2, evaluations=1), out)
    assert result.evaluation is not None
    assert RunFolder(out).weights.read_bytes() != before


def test_best_is_that_of_the_weights_that_lie_there(synthetic: Path, tmp_path: Path) -> None:
    plan, folder = small(synthetic, iterations=1), RunFolder(tmp_path / "run")
    run(plan, folder.path)
    splits = read_splits(plan.data)
    model = plan.model.build(len(splits.train.categories), splits.train.counts())
    state = TrainState(model, build_optimizer(model, plan.train), None)
    recorder = Recorder(folder, plan, state, launch(plan), QUIET, 9, 6.0, splits.train)

    def evaluated(ap: float) -> bytes:
        weights = {"ap": torch.tensor(ap)}
        recorder.write_evaluation(Evaluation({"AP": ap}, ()), weights)
        return folder.weights.read_bytes()

    best = evaluated(0.5)
    assert evaluated(0.2) == best
    folder.weights.unlink()
    lesser = evaluated(0.2)
    assert lesser != best
    assert evaluated(0.4) != lesser
    assert state.best == 0.4


def test_going_on_and_replacing_exclude_each_other(synthetic: Path, tmp_path: Path) -> None:
    plan = dataclasses.replace(small(synthetic), resume=True, overwrite=True)
    with pytest.raises(ConfigError, match="only one of them"):
        run(plan, tmp_path / "run")


def test_images_are_padded_alike_in_evaluation_and_prediction(
    synthetic: Path, tmp_path: Path
) -> None:
    run(small(synthetic, "--data.divisor", "80", iterations=1, evaluations=0), tmp_path / "run")
    model, seen = hyperfocal.load(tmp_path / "run", device="cpu"), []
    detect = model.detector.detect
    model.detector.detect = lambda batch: (seen.append(batch.images.shape), detect(batch))[1]
    model.predict(synthetic / "val" / "000001.jpg")
    assert seen == [(1, 3, 160, 160)]


def test_weights_without_checkpoints_are_a_run_too(synthetic: Path, tmp_path: Path) -> None:
    """Such as an imported run, or a copy made for inference."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.weights.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="already contains a run"):
        run(small(synthetic), folder.path)
    assert folder.weights.read_bytes() == b"precious"


def test_a_finished_run_keeps_the_config_that_it_was_made_with(
    synthetic: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    run(small(synthetic, iterations=1), folder.path)
    before = folder.config.read_text()
    with pytest.warns(HyperfocalWarning, match=r"model\.loss\.kind = ce"):
        run(small(synthetic, "--resume", "--loss", "ce", iterations=1), folder.path)
    assert folder.config.read_text() == before


def test_a_folder_that_is_a_file_is_reported_before_the_work(
    synthetic: Path, tmp_path: Path
) -> None:
    file = tmp_path / "taken"
    file.write_text("")
    for out in (file, file / "run"):
        with pytest.raises(ConfigError, match=r"--out .*taken is a file, but it must be a folder"):
            run(small(synthetic), out)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", 99, "mps:7"])
def test_a_device_that_is_not_there_is_one_line(synthetic: Path, name: str | int) -> None:
    with pytest.raises(ConfigError, match=f"device {name} is not available; available: cpu") as e:
        find_device(name)
    assert len(str(e.value).splitlines()) == 1


def test_devices_by_name() -> None:
    assert find_device("cpu") == torch.device("cpu") == find_device(torch.device("cpu"))
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_length_on_the_command_line_takes_the_place_of_the_recipes() -> None:
    demo = load_recipe("demo")
    assert demo.train.epochs is not None
    steps = override(demo, ["--train.iterations", "7"], "test").train
    assert (steps.iterations, steps.epochs) == (7, None)
    again = override(dataclasses.replace(demo, train=steps), ["--epochs=2"], "test").train
    assert (again.iterations, again.epochs) == (None, 2)
    with pytest.raises(SystemExit):
        override(demo, ["--train.iterations", "7", "--train.epochs", "2"], "test")
    with pytest.raises(ConfigError, match=r"iterations = 7, .* or epochs \(2\) set to None"):
        TrainConfig(iterations=7, epochs=2)
