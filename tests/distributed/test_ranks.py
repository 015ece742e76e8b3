"""Several processes: the same result as one, and what happens when one of them ends or hangs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tests.close import assert_same_steps

from hyperfocal.config import override
from hyperfocal.distributed.coordination import Watchdog
from hyperfocal.engine.step import average_gradients
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.checkpoint import Checkpoints
from hyperfocal.runs.folder import RunFolder

STEPS = 8
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="needs torch.distributed"
)


@pytest.fixture(scope="module")
def sparse(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data with boxes in every fourth image, so many shares of batches have none."""
    data = json.loads((synthetic / "train.json").read_text())
    kept = {image["id"] for image in data["images"][::4]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
    file = tmp_path_factory.mktemp("sparse") / "train.json"
    file.write_text(json.dumps(data))
    return file


@pytest.fixture
def flags(synthetic: Path, sparse: Path) -> list[str]:
    """A training of five images a step, which two processes share as two and three."""
    settings = {
        "--data.train.annotations": sparse, "--data.train.images": synthetic / "train",
        "--data.val.annotations": synthetic / "val.json", "--data.val.images": synthetic / "val",
        "--train.iterations": STEPS, "--train.epochs": None, "--train.batch-size": 5,
        "--train.evaluations": 1, "--train.log-every": 1, "--train.precision": "fp32",
        "--train.optimizer": "sgd", "--lr": 0.01, "--data.workers": 0, "--loss": "efl",
        "--model.backbone.norm": "frozen", "--model.backbone.name": "test_resnet",
        "--data.train-transform.short": 64, "--data.val-transform.short": 64,
        "--accelerator": "cpu", "--checkpoint-seconds": 0, "--keep": 99,
    }  # fmt: skip
    return [str(word) for pair in settings.items() for word in pair]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python with some words in a session of its own; what is left is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def popen(*words: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MASTER_PORT": free_port(),
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # docs/scale.md says why
        }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", *words],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield popen
    for process in started:
        kill(family(process.pid))
        process.wait()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def plan(flags: list[str], *more: str) -> Experiment:
    return override(load_recipe("demo"), [*flags, *more], "test")


def lines(out: Path) -> list[dict[str, Any]]:
    if not RunFolder(out).log.exists():
        return []
    found = [json.loads(line) for line in RunFolder(out).log.read_text().splitlines()]
    return [line for line in found if line["kind"] == "step"]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in lines(out)]


def wait_for_steps(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(lines(out)) < count:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def family(root: int) -> list[int]:
    """A process and its descendants (torchrun gives its workers sessions of their own)."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def rank_process(rank: int, within: int) -> int:
    """Process id of a rank among the descendants of a process."""
    for pid in family(within):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"LOCAL_RANK={rank}".encode() in variables:
            return pid
    raise AssertionError(f"no rank {rank} under {within}")


def kill(processes: list[int]) -> None:
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def one(flags: list[str], out: Path) -> dict[str, torch.Tensor]:
    """Weights of the same training in this process alone."""
    train(plan(flags), RunFolder(out), Console(quiet=True))
    return load_file(RunFolder(out).weights)


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--strategy", "fsdp"], ["--train.micro-batches", "auto"]])
def test_uneven_shares_and_shares_without_boxes_equal_one_process(
    flags: list[str], tmp_path: Path, start: Callable[..., Any], more: list[str]
) -> None:
    two = tmp_path / "two"
    ema = ["--train.ema-decay", "0.9", *more]
    process = start(
        "hyperfocal.cli", "train", "demo", *flags, *ema, "--devices", "2", "--out", str(two)
    )
    wanted = one([*flags, *ema[:2]], tmp_path / "one")
    before = one([*flags, "--lr", "1e-30", "--train.iterations", "1"], tmp_path / "before")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert losses(two) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert_same_steps(load_file(RunFolder(two).weights), wanted, before)
    # Another number of processes continues where these were, sharded or not.
    for path in Checkpoints(RunFolder(two).checkpoints).paths():
        if int(path.stem) > 4:
            path.unlink()
    train(plan(flags, *ema[:2], "--resume"), RunFolder(two), Console(quiet=True))
    assert losses(two) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert_same_steps(load_file(RunFolder(two).weights), wanted, before)


@pytest.mark.slow
def test_adamw_trains_sharded(flags: list[str], tmp_path: Path, start: Callable[..., Any]) -> None:
    """Its first steps divide gradients by their own size, so rounding shows: losses, loosely."""
    two, adamw = tmp_path / "two", ["--train.optimizer", "adamw", "--lr", "1e-4"]
    ranks = ["--strategy", "fsdp", "--devices", "2"]
    process = start("hyperfocal.cli", "train", "demo", *flags, *adamw, *ranks, "--out", str(two))
    one([*flags, *adamw], tmp_path / "one")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert losses(two) == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


@pytest.mark.slow
def test_a_killed_rank_restarts_the_group_and_the_run_continues(
    flags: list[str], tmp_path: Path, start: Callable[..., Any]
) -> None:
    out = tmp_path / "two"
    process = start(
        "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", "--monitor-interval=0.1",
        "--standalone", "-m", "hyperfocal.cli", "train", "demo", *flags,
        "--out", str(out), "--resume",
    )  # fmt: skip
    wait_for_steps(out, 3, process)
    os.kill(rank_process(1, process.pid), signal.SIGKILL)
    one(flags, tmp_path / "one")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text
    assert [line["step"] for line in lines(out)] == list(range(1, STEPS + 1))
    assert losses(out) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert "lost the connection to the other processes in" in text


@pytest.mark.slow
def test_two_nodes_train_lose_one_and_go_on(
    flags: list[str], tmp_path: Path, start: Callable[..., Any]
) -> None:
    out, endpoint = tmp_path / "run", f"127.0.0.1:{free_port()}"
    words = [
        "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3",
        "--monitor-interval=0.1", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}",
        "--rdzv-id=test", "--local-addr=127.0.0.1",
        "--rdzv-conf=last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=2",
        "-m", "hyperfocal.cli", "train", "demo", *flags, "--out", str(out), "--resume",
        "--train.iterations", "40",
    ]  # fmt: skip
    first = start(*words[:9], f"{words[9]},is_host=1", *words[10:])
    second = start(*words[:9], f"{words[9]},is_host=0", *words[10:])
    wait_for_steps(out, 3, first)
    assert second.poll() is None
    kill(family(second.pid))  # a node that is gone takes all its processes along
    seen = len(lines(out))
    text, _ = first.communicate(timeout=120)
    assert first.returncode == 0, text
    assert seen < 40
    assert [line["step"] for line in lines(out)] == list(range(1, 41))
    assert "lost the connection to the other processes" in text


@pytest.mark.slow
def test_a_stuck_process_is_named_by_the_one_that_waits(
    flags: list[str], tmp_path: Path, start: Callable[..., Any]
) -> None:
    out = tmp_path / "two"
    more = ["--devices", "2", "--out", str(out), "--timeout", "4", "--train.iterations", "10000"]
    process = start("hyperfocal.cli", "train", "demo", *flags, *more)
    wait_for_steps(out, 2, process)
    stopped = rank_process(1, process.pid)
    os.kill(stopped, signal.SIGSTOP)
    assert process.wait(timeout=60) != 0
    kill([stopped])  # it holds the pipe open
    text, _ = process.communicate(timeout=60)
    _, found, rest = text.partition("rank 0 has been stuck for ")
    assert found, text
    assert "rank 1 has not reported for" in rest
    assert "last in " in rest


def test_the_watchdog_of_one_process_has_nothing_to_watch() -> None:
    with Watchdog(0.01) as dog:
        dog.at("step 1")
        time.sleep(0.05)
    assert dog._thread is None


def test_reports_name_who_is_behind_first() -> None:
    class Store(dict[str, str]):
        def check(self, keys: list[str]) -> bool:
            return all(key in self for key in keys)

    dog = Watchdog(10.0)
    dog.rank, dog.world_size, dog.place = 0, 4, "step 7"
    now = time.time()
    dog._store = Store({
        dog._key(1): json.dumps(["step 7", 3.0, now]),
        dog._key(2): json.dumps(["step 7, reading images", 12.0, now]),
        dog._key(3): json.dumps(["step 6", 1.0, now - 300]),
    })  # fmt: skip
    assert dog.report() == (
        "rank 3 has not reported for 300 s, last in step 6; "
        "rank 2 has been in step 7, reading images for 12 s; rank 1 is waiting there too"
    )


def test_gradients_made_apart_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[2.0, 4.0]])  # the bias was not used here
    monkeypatch.setattr("torch.distributed.all_reduce", lambda flat: flat.add_(2.0))
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    average_gradients(model)
    assert model.weight.grad.tolist() == [[2.0, 3.0]]
    assert model.bias.grad is not None
    assert model.bias.grad.tolist() == [1.0]
