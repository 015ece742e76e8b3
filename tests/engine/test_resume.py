"""Resuming after kills, signals, damaged checkpoints and a full disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from hyperfocal import config as configs
from hyperfocal.config import override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.distributed.coordination import Abandoned, StopRequest
from hyperfocal.engine.evaluate import Evaluation
from hyperfocal.engine.loop import TrainResult
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment
from hyperfocal.recipes import load_recipe
from hyperfocal.runs import changes, checkpoint, json_files, weights
from hyperfocal.runs.checkpoint import Checkpoints, load_checkpoint
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import LineFile
from hyperfocal.runs.writing import sweep_parts
from hyperfocal.types import ConfigError, HyperfocalError, HyperfocalWarning

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "faults.py"


def tiny(synthetic: Path, *flags: str, **changes: Any) -> Experiment:
    base = load_recipe("demo")
    size = TransformConfig(short=64, long=64)
    settings = {
        "iterations": 6, "epochs": None, "batch_size": 4, "evaluations": 2, "log_every": 4,
        "precision": "fp32",
    }  # fmt: skip
    data = dataclasses.replace(
        base.data,
        train=Split(synthetic / "train.json", synthetic / "train"),
        val=Split(synthetic / "val.json", synthetic / "val"),
        train_transform=size,
        val_transform=size,
        workers=0,
    )
    own = dataclasses.replace(
        base,
        train=dataclasses.replace(base.train, **settings),
        data=data,
        accelerator="cpu",
        checkpoint_seconds=0.0,
    )
    own = override(own, ["--model.backbone.name", "test_resnet", *flags], "test")
    return dataclasses.replace(own, **changes)


def run(experiment: Experiment, out: Path) -> TrainResult:
    return train(experiment, RunFolder(out), Console(quiet=True))


def newest(out: Path) -> dict[str, Any]:
    return load_checkpoint(Checkpoints(RunFolder(out).checkpoints).paths()[0])


def same(a: Any, b: Any) -> bool:
    """Whether nested dictionaries, lists and tensors are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def logged(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in RunFolder(out).log.read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in ("time", "images_per_second")} for x in lines]


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_is_the_same_to_the_bit() -> None:
    words = [sys.executable, str(BENCHMARK), "--moments", "3", "--losses", "efl"]
    done = subprocess.run(
        words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "survived 3 of 3, identical 3 of 3" in done.stdout


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_from_any_checkpoint_the_rest_of_the_run_is_the_same(
    synthetic: Path, tmp_path: Path, cut: int
) -> None:
    # The state after `cut` steps is all there is; 3 and 6 are evaluated, 4 and 6 are logged.
    flags = ("--loss", "eqlv2", "--model.inference.score-threshold", "0")
    plan = tiny(synthetic, *flags, keep=9, deterministic=True)
    run(plan, tmp_path / "run")
    out = tmp_path / "run"
    whole, log = newest(out), logged(out)
    weights, ratios = RunFolder(out).weights.read_bytes(), RunFolder(out).ratios.read_bytes()
    for path in Checkpoints(RunFolder(out).checkpoints).paths():
        if int(path.stem) > cut:
            path.unlink()
    result = run(dataclasses.replace(plan, resume=True), out)
    torch.use_deterministic_algorithms(False)
    assert same(newest(out), whole)
    assert logged(out) == log
    assert RunFolder(out).weights.read_bytes() == weights
    assert RunFolder(out).ratios.read_bytes() == ratios
    assert result.evaluation is not None  # of a run that had ended: from its metrics.json
    metrics = result.evaluation.metrics
    assert metrics["AR100"] > 0
    expected = {name: log[-1][name] for name in metrics}
    numbers = {n: math.nan if value is None else value for n, value in expected.items()}
    assert metrics == pytest.approx(numbers, nan_ok=True)


def test_resume_by_flag_starts_where_there_is_nothing(synthetic: Path, tmp_path: Path) -> None:
    plan = tiny(synthetic, "--resume")
    assert plan.resume
    run(plan, tmp_path / "run")
    assert [x["step"] for x in logged(tmp_path / "run")] == [3, 4, 6, 6]
    assert run(plan, tmp_path / "run").stopped_by is None


def test_keep_limits_the_checkpoints_and_overwrite_leaves_none_of_the_old_run(
    synthetic: Path, tmp_path: Path
) -> None:
    plan = tiny(synthetic, keep=3)
    run(plan, tmp_path / "run")
    kept = Checkpoints(tmp_path / "run" / "checkpoints").paths()
    assert [int(path.stem) for path in kept] == [6, 5, 4]
    (tmp_path / "run" / "notes.txt").write_text("mine")
    RunFolder(tmp_path / "run").clear()
    assert not Checkpoints(tmp_path / "run" / "checkpoints").paths()
    assert not RunFolder(tmp_path / "run").log.exists()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_an_average_and_a_clip_that_clips_nothing_change_no_weight(
    synthetic: Path, tmp_path: Path
) -> None:
    for name, flags in {
        "plain": ["--train.ema-decay", "None", "--train.clip-norm", "None"],
        "average": ["--train.ema-decay", "0.9", "--train.clip-norm", "None"],
        "clip": ["--train.ema-decay", "None", "--train.clip-norm", "1e9"],
    }.items():
        run(tiny(synthetic, *flags, deterministic=True), tmp_path / name)
    torch.use_deterministic_algorithms(False)
    plain, average, clip = (newest(tmp_path / name) for name in ("plain", "average", "clip"))
    assert same(plain["model"], average["model"])
    assert same(plain["model"], clip["model"])
    assert not same(average["average"]["model"], average["model"])


def damage(path: Path) -> None:
    """Flip one bit in the middle of a checkpoint, inside a tensor."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step, "w": torch.zeros(1000)})
    damage(tmp_path / "00000003.pt")
    (tmp_path / "00000002.pt").write_bytes(b"")
    with pytest.warns(HyperfocalWarning) as warned:
        state = checkpoints.load_newest()
    assert state is not None
    assert state["step"] == 1
    assert [str(w.message).partition(":")[0] for w in warned] == [
        str(tmp_path / "00000003.pt"), str(tmp_path / "00000002.pt"),
    ]  # fmt: skip
    assert all("using 00000001.pt" in str(w.message) for w in warned)
    assert (tmp_path / "00000003.pt.damaged").exists()
    damage(tmp_path / "00000001.pt")
    with pytest.raises(HyperfocalError, match=r"00000001\.pt: damaged.*--overwrite"):
        checkpoints.load_newest()
    assert Checkpoints(tmp_path / "none").load_newest() is None


def test_a_full_disk_is_a_warning_and_the_next_checkpoint_tries_again(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = tiny(synthetic), tmp_path / "run"
    real, calls = checkpoint.torch.save, []

    def save(state: dict[str, Any], part: Path) -> None:
        calls.append(state["step"])
        if state["step"] in (2, 3):
            part.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, part)

    monkeypatch.setattr(checkpoint.torch, "save", save)
    with pytest.warns(HyperfocalWarning, match="No space left on device.*training continues"):
        run(plan, out)
    assert newest(out)["step"] == 6
    assert not list((out / "checkpoints").glob(".*"))
    assert calls.count(3) == 2  # after the step, and again before the evaluation


def test_a_run_that_ends_without_its_last_files_says_so_and_can_go_on(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = tiny(synthetic, "--train.evaluations", "1"), tmp_path / "run"
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        patch.setattr("hyperfocal.engine.recorder.save_tensors", full)
        with (
            pytest.warns(HyperfocalWarning, match="safetensors: can't be written"),
            pytest.raises(HyperfocalError, match="continue with --resume"),
        ):
            run(plan, out)
    run(dataclasses.replace(plan, resume=True), out)
    assert RunFolder(out).weights.exists()
    assert [x["step"] for x in logged(out) if x["kind"] == "evaluation"] == [6]


def test_torch_and_safetensors_tell_of_a_full_disk_as_an_os_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # a limit on the size of files, as on a full disk
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError):
            checkpoint.save_checkpoint(tmp_path / "a.pt", {"w": torch.zeros(100_000)})
        with pytest.raises(OSError):
            weights.save_weights(tmp_path / "a.safetensors", torch.nn.Linear(300, 300))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_log_lines_wait_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A file whose disk is full after a few bytes."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            self.file.write(data[:3])
            raise OSError(errno.ENOSPC, "No space left on device")

    def wrap(*args: Any, **options: Any) -> Any:
        return Full(Path.open(args[0], *args[1:], **options))

    file = LineFile(tmp_path / "a.jsonl")
    file.append({"n": 0})
    with monkeypatch.context() as patch:
        patch.setattr(json_files, "open", wrap, raising=False)
        with pytest.warns(HyperfocalWarning, match="No space left"):
            file.append({"n": 1})
        file.append({"n": 2})  # warned once: a second warning would be an error here
    assert json_files.read_lines(tmp_path / "a.jsonl") == [{"n": 0}]  # and a part of a line
    file.append({"n": 3})
    assert json_files.read_lines(tmp_path / "a.jsonl") == [{"n": n} for n in range(4)]


def test_both_logs_are_on_the_disk_before_a_checkpoint_that_relies_on_them(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, save = LineFile.sync, Checkpoints.save

    def note_sync(self: LineFile) -> None:
        sync(self)
        events.append(self.path.name)

    def note_save(self: Checkpoints, step: int, state: dict[str, Any]) -> None:
        save(self, step, state)
        events.append("checkpoint")

    monkeypatch.setattr(LineFile, "sync", note_sync)
    monkeypatch.setattr(Checkpoints, "save", note_save)
    flags = ("--loss", "efl", "--train.evaluations", "0", "--train.iterations", "2")
    run(tiny(synthetic, *flags), tmp_path / "run")
    checkpoints = events.count("checkpoint")
    assert checkpoints >= 2
    assert events == ["metrics.jsonl", "ratios.jsonl", "checkpoint"] * checkpoints


def test_parts_of_killed_writers_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".metrics.json.123.part").write_text("half")
    (tmp_path / "metrics.json").write_text("whole")
    sweep_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_settings_that_may_change_in_mid_run_exist(synthetic: Path) -> None:
    assert {name for name, _ in configs.by_name(configs.dump(tiny(synthetic)))} >= changes.FREE


def test_other_settings_on_resuming_are_named(synthetic: Path, tmp_path: Path) -> None:
    plan, out = tiny(synthetic, "--train.evaluations", "0"), tmp_path / "run"
    run(plan, out)
    other = override(plan, ["--resume", "--lr", "0.5", "--data.workers", "1"], "test")
    with pytest.warns(HyperfocalWarning, match=r"train\.lr = 0\.5 \(was 0\.002\)") as warned:
        run(other, out)
    assert "workers" not in str(warned[0].message)
    fits_not = override(plan, ["--resume", "--model.neck.channels", "96"], "test")
    with pytest.warns(HyperfocalWarning), pytest.raises(ConfigError, match="doesn't fit"):
        run(fits_not, out)


def test_sigterm_in_an_evaluation_leaves_it_to_the_resumed_run(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = tiny(synthetic), tmp_path / "run"
    for place in ("detect_all", "measure"):
        real = getattr(sys.modules["hyperfocal.engine.loop"], place)

        def interrupted(*args: Any, real: Any = real, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # passed on by a launcher: not a second wish
            return real(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(f"hyperfocal.engine.loop.{place}", interrupted)
            result = run(dataclasses.replace(plan, overwrite=True), out)
        assert result.stopped_by == "SIGTERM"
        assert [x["kind"] for x in logged(out)] == []
        assert not RunFolder(out).weights.exists()
        assert not (out / "lock.json").exists()
    run(dataclasses.replace(plan, resume=True), out)
    assert [x["step"] for x in logged(out) if x["kind"] == "evaluation"] == [3, 6]


def test_ctrl_c_twice_interrupts_unless_it_is_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the launcher's copy
        assert stop.received == "SIGINT"
        monkeypatch.setattr("hyperfocal.distributed.coordination.SAME_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with StopRequest() as stop, pytest.raises(Abandoned), stop.abandoning():
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_sigterm_to_the_whole_group_saves_and_exits_0(synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = [
        "--data.train.annotations", synthetic / "train.json",
        "--data.train.images", synthetic / "train",
        "--data.val.annotations", synthetic / "val.json", "--data.val.images", synthetic / "val",
        "--out", out, "--train.iterations", 10_000, "--train.epochs", "None",
        "--train.log-every", 1, "--train.batch-size", 2, "--data.workers", 2,
        "--model.backbone.name", "test_resnet", "--accelerator", "cpu",
    ]  # fmt: skip
    words = [sys.executable, "-m", "hyperfocal.cli", "train", "demo", *map(str, flags)]
    process = subprocess.Popen(
        words,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = RunFolder(out).log
    while not log.exists() or not log.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 0, text
    assert "Stopped by SIGTERM" in text
    assert newest(out)["step"] == logged(out)[-1]["step"]


def test_an_evaluation_reads_back_as_it_was(tmp_path: Path) -> None:
    from hyperfocal.evaluation import CategoryMetrics

    rows = (
        CategoryMetrics(7, "cat", 0.5, 0.75, 3, 12, "r"),
        CategoryMetrics(9, "dog", float("nan"), float("nan"), 0, None, None),
    )
    made = Evaluation({"AP": 0.5, "APr": float("nan")}, rows)
    made.write(RunFolder(tmp_path), 12)
    read = Evaluation.read(RunFolder(tmp_path), 12)
    assert repr(read) == repr(made)
    assert Evaluation.read(RunFolder(tmp_path), 13) is None
    assert Evaluation.read(RunFolder(tmp_path / "none"), 12) is None
