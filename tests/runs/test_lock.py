"""One training per run folder: a second one is refused, and the lock of a dead one is taken."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hyperfocal.config import override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment
from hyperfocal.recipes import load_recipe
from hyperfocal.runs import lock as run_lock
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.lock import RunLock
from hyperfocal.types import ConfigError, HyperfocalError

HOLD = """
import sys
from pathlib import Path
from hyperfocal.runs.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Start a process that holds a folder's lock until its input ends."""
    started = []

    def start(folder: Path) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", HOLD, str(folder)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def plan(synthetic: Path, *flags: str) -> Experiment:
    base, size = load_recipe("demo"), TransformConfig(short=64, long=64)
    train_config = dataclasses.replace(
        base.train, iterations=2, epochs=None, batch_size=2, evaluations=1, precision="fp32"
    )
    data = dataclasses.replace(
        base.data,
        train=Split(synthetic / "train.json", synthetic / "train"),
        val=Split(synthetic / "val.json", synthetic / "val"),
        train_transform=size, val_transform=size, workers=0,
    )  # fmt: skip
    own = dataclasses.replace(base, train=train_config, data=data, accelerator="cpu")
    return override(own, ["--model.backbone.name", "test_resnet", *flags], "test")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_process_is_refused_until_the_first_ends(
    tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    process = hold(tmp_path / "run")
    with (
        pytest.raises(ConfigError, match=rf"process {process.pid} has been training"),
        RunLock(tmp_path / "run"),
    ):
        pass
    process.communicate("")
    assert not (tmp_path / "run").exists()  # nothing had been written to it
    with RunLock(tmp_path / "run"):
        held = json.loads((tmp_path / "run" / "lock.json").read_text())
        assert held["process"] == os.getpid()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_a_lock_that_is_taken_at_once(
    tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = hold(tmp_path)
    process.send_signal(number)
    process.wait()
    assert (tmp_path / "lock.json").exists()
    waited: list[str] = []
    with RunLock(tmp_path, waited.append):
        pass
    assert not waited
    assert not (tmp_path / "lock.json").exists()


def test_a_second_thread_is_refused_until_the_first_ends(
    tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    (tmp_path / "link").symlink_to("run")

    def second(folder: Path) -> str:
        """The error of a thread that locks a folder; empty if it gets the lock."""
        found: list[str] = []

        def enter() -> None:
            try:
                with RunLock(folder):
                    found.append("")
            except ConfigError as error:
                found.append(str(error))

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(60)
        return found[0]

    with RunLock(tmp_path / "run"):
        for name in ("run", "link"):
            assert "another thread of this process is training here" in second(tmp_path / name)
        # The lock between processes isn't lost by that.
        other = subprocess.run(
            [sys.executable, "-c", HOLD, str(tmp_path / "run")],
            capture_output=True, text=True, input="", timeout=60,
        )  # fmt: skip
        assert f"process {os.getpid()} has been training here" in other.stderr
    assert second(tmp_path / "run") == ""
    hold(tmp_path / "run")
    with pytest.raises(ConfigError, match="has been training"), RunLock(tmp_path / "run"):
        pass
    assert "has been training" in second(tmp_path / "run")  # not "another thread": it is free


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_training_beside_another_is_refused_and_changes_nothing(
    synthetic: Path, tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]], flag: str
) -> None:
    out = tmp_path / "run"
    train(plan(synthetic), RunFolder(out), Console(quiet=True))
    assert not (out / "lock.json").exists()
    process = hold(out)
    before = files(out)
    with pytest.raises(ConfigError, match=f"process {process.pid} has been training here since"):
        train(plan(synthetic, flag, "--lr", "0.5"), RunFolder(out), Console(quiet=True))
    assert files(out) == before


def left_by_another_machine(folder: Path) -> Path:
    path = folder / "lock.json"
    path.write_text(json.dumps({"process": 7, "host": "elsewhere", "started": "yesterday"}))
    return path


def test_another_machine_that_is_silent_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "SILENCE", 0.4)
    left_by_another_machine(tmp_path)
    waited: list[str] = []
    with RunLock(tmp_path, waited.append):
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()
    assert "process 7 on elsewhere" in waited[0]


def test_another_machine_that_touches_its_lock_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "SILENCE", 20.0)
    path, ended = left_by_another_machine(tmp_path), threading.Event()

    def beat() -> None:
        while not ended.wait(0.1):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ConfigError, match="process 7 on elsewhere has been"), RunLock(tmp_path):
            pass
    finally:
        ended.set()
        thread.join()
    assert json.loads(path.read_text())["host"] == "elsewhere"


def test_the_holder_touches_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT", 0.02)
    with RunLock(tmp_path):
        os.utime(tmp_path / "lock.json", (1, 1))
        until = time.monotonic() + 20
        while (tmp_path / "lock.json").stat().st_mtime == 1:
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.mark.parametrize("left", ["", "{", "[1]", '{"process": "x"}'])
def test_a_lock_file_without_a_holder_is_taken(tmp_path: Path, left: str) -> None:
    (tmp_path / "lock.json").write_text(left)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["process"] == os.getpid()


def test_one_of_many_gets_a_stale_lock(tmp_path: Path) -> None:
    stale = {"process": 1, "host": os.uname().nodename, "started": "yesterday"}
    (tmp_path / "lock.json").write_text(json.dumps(stale))
    context = multiprocessing.get_context("fork")
    together, done, won = context.Barrier(6), context.Barrier(6), context.Value("i", 0)

    def take() -> None:
        together.wait(60)
        try:
            with RunLock(tmp_path):
                with won.get_lock():
                    won.value += 1
                done.wait(60)
        except ConfigError:
            done.wait(60)

    processes: list[Any] = [context.Process(target=take) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert won.value == 1


def test_data_that_can_not_be_read_leaves_no_folder(synthetic: Path, tmp_path: Path) -> None:
    missing = plan(synthetic, "--data.train.annotations", str(tmp_path / "none.json"))
    with pytest.raises(HyperfocalError, match=r"none\.json"):
        train(missing, RunFolder(tmp_path / "a" / "run"), Console(quiet=True))
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_all_processes_of_a_training_end_where_the_folder_is_taken(
    synthetic: Path, tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]]
) -> None:
    process = hold(tmp_path / "run")
    flags = [
        "--data.train.annotations", synthetic / "train.json",
        "--data.train.images", synthetic / "train",
        "--model.backbone.name", "test_resnet", "--accelerator", "cpu", "--train.batch-size", 2,
        "--out", tmp_path / "run", "--resume",
    ]  # fmt: skip
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    words = [sys.executable, *launch, "-m", "hyperfocal.cli", "train", "demo", *map(str, flags)]
    done = subprocess.run(
        words,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert f"process {process.pid} has been training here" in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock.json"]
