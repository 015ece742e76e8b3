"""`hyperfocal reproduce` on a small synthetic dataset: interrupted, resumed, reported."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from hyperfocal.cli import main
from hyperfocal.reproduce.runs import Job, run_jobs
from hyperfocal.reproduce.timing import milliseconds
from hyperfocal.runs.lock import RunLock
from hyperfocal.types import HyperfocalError

ROWS = ["--only", "gamma=0", "--only", "gamma=2.0"]


def words(synthetic: Path, out: Path, *more: str) -> list[str]:
    data = [
        f"--data.{split}.{what}={path}"
        for split in ("train", "val")
        for what, path in (
            ("annotations", synthetic / f"{split}.json"),
            ("images", synthetic / split),
        )
    ]
    sizes = [
        f"--data.{s}-transform.{side}=64" for s in ("train", "val") for side in ("short", "long")
    ]
    quick = "--train.epochs None --train.evaluations 1 --train.precision fp32 --data.workers 0"
    base = ["reproduce", "1b", "--scale", "small", "--out", str(out), *ROWS]
    return [*base, *data, *sizes, *quick.split(), *more]


@pytest.mark.slow
def test_two_rows_interrupted_and_resumed(synthetic: Path, tmp_path: Path, monkeypatch) -> None:
    """After a stop, the same command continues, keeps finished runs, and reports the same."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "table"
    command = words(
        synthetic, out, "--seeds", "1", "--train.iterations", "12", "--train.log-every", "1"
    )
    process = subprocess.Popen([sys.executable, "-m", "hyperfocal.cli", *command])
    log = out / "gamma=2.0-0" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    states = {p.parent.name: json.loads(p.read_text())["state"] for p in out.glob("*/outcome.json")}
    assert states == {"gamma=0-0": "finished", "gamma=2.0-0": "interrupted"}
    kept = (out / "gamma=0-0" / "metrics.jsonl").read_text()
    half = json.loads((out / "table.json").read_text())
    assert half["rows"][0]["runs"].keys() == {"0"}
    assert all(c["answer"] != "holds" for c in half["conclusions"])

    assert main(command) == 0
    assert (out / "gamma=0-0" / "metrics.jsonl").read_text() == kept
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert [s["step"] for s in steps if s["kind"] == "step"] == list(range(1, 13))
    table = (out / "table.md").read_text()
    assert "too few seeds" in table
    assert f"torch {metadata.version('torch')}, " in table
    assert "| gamma=5.0 | 0 | - |" in table
    measured = json.loads((out / "gamma=2.0-0" / "metrics.json").read_text())["metrics"]["AP"]
    rows = {row["name"]: row for row in json.loads((out / "table.json").read_text())["rows"]}
    assert rows["gamma=2.0"]["ours"]["AP"]["mean"] == pytest.approx(100 * measured)
    assert rows["gamma=2.0"]["published"]["AP"] == 34.0

    assert milliseconds(out / "gamma=2.0-0") > 0

    (out / "table.md").unlink()
    assert main(command) == 0  # nothing is left to train
    assert (out / "table.md").read_text() == table
    one = [word for word in command if word not in ("--only", "gamma=0")]
    one.insert(one.index("gamma=2.0"), "--only")
    assert main(one) == 0  # rows that were made before stay in the table
    rows = {row["name"]: row for row in json.loads((out / "table.json").read_text())["rows"]}
    assert rows["gamma=0"]["runs"].keys() == {"0"}


def test_a_diverging_row_is_a_result(synthetic: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "table"
    blown = ["--train.optimizer", "sgd", "--train.lr", "1e20", "--train.clip-norm", "None"]
    flags = ["--seeds", "1", "--train.iterations", "20", "--train.warmup-iterations", "0", *blown]
    command = words(synthetic, out, *flags)
    command.remove("--only"), command.remove("gamma=0")
    assert main(command) == 0
    assert "diverged at step" in capsys.readouterr().out
    text = (out / "table.md").read_text()
    assert "Diverged (loss or gradient not finite): gamma=2.0 seed 0 (step " in text
    assert main(command) == 0  # and it is not tried again
    assert "1 of 1 runs are finished" in capsys.readouterr().out


def test_tables_share_runs_of_the_same_settings(
    synthetic: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """FL with gamma 2 is a row of both; another seed or length of training is another run."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first, second = tmp_path / "1b", tmp_path / "3"
    flags = ["--seeds", "1", "--train.iterations", "2"]
    command = words(synthetic, first, *flags)
    command.remove("--only"), command.remove("gamma=0")
    assert main(command) == 0
    moved = tmp_path / "moved"  # a synthetic dataset is the same wherever it lies
    shutil.copytree(synthetic, moved)
    table = [word.replace("gamma=2.0", "fl") for word in words(moved, second, *flags)]
    table[1] = "3"
    table.remove("--only"), table.remove("gamma=0")
    other = [*table, "--reuse", str(first)]
    other[other.index("--seeds") + 1] = "2"
    capsys.readouterr()
    assert main(other) == 0
    said = capsys.readouterr().out
    assert "1 runs are reused from other tables" in said
    assert "1 of 2 runs are finished" in said
    assert (second / "fl-0").resolve() == (first / "gamma=2.0-0").resolve()
    assert not (second / "fl-1").is_symlink()
    assert "rows from another table: fl (1b)" in (second / "table.md").read_text()
    longer = [word.replace(str(second), str(tmp_path / "4")) for word in other]
    longer[longer.index("--train.iterations") + 1] = "3"
    longer[longer.index("--seeds") + 1] = "1"
    assert main(longer) == 0
    assert not (tmp_path / "4" / "fl-0").is_symlink()
    (tmp_path / "none").mkdir()
    assert main([*table, "--reuse", str(tmp_path / "none")]) == 2
    assert (
        "none: no finished run of `hyperfocal reproduce` in this folder" in capsys.readouterr().err
    )


def test_a_run_that_fails_otherwise_says_why(tmp_path: Path) -> None:
    job = Job("row", 0, tmp_path / "row-0", ("no_such_recipe",))
    with pytest.raises(HyperfocalError, match=r"(?s)status 2.*no recipe 'no_such_recipe'.*log.txt"):
        run_jobs([job], 1, 0, lambda done: None)
    assert job.outcome() is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["1bb"], "no table '1bb'; did you mean '1b'?"),
        (["1b", "--only", "gamma=7"], "table 1b has no such row; did you mean"),
        (["2", "--only", "yolov2"], "there is no recipe for this row"),
        (["1b", "--seeds", "0"], "--seeds 0, but it must be at least 1"),
        (["1b", "--jobs", "0"], "--jobs 0, but it must be at least 1"),
        (["1b", "--seed", "3"], "--seed is set for each run here; --seeds N"),
        (["1b"], "no train data: give --data.train.annotations F"),
        (["1b", "--data.train.annotations", "no.json"], "no.json: no such file or folder"),
        (["1b", "--imbalance", "4"], "--imbalance 4 is only for the synthetic dataset"),
        (
            ["1b", "--scale", "small", "--imbalance", "0.5"],
            "--imbalance 0.5, but it must be from 1",
        ),
        (["1b", "--scale", "small", "--recipe", "dmo"], "no recipe 'dmo'; did you mean 'demo'?"),
        (["1b", "--scale", "small", "--loss", "focl"], "--model.loss focl: must be one of"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    given: list[str], said: str, capsys, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *given]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_runs_of_other_settings_are_not_mixed(synthetic: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "table"
    out.mkdir()
    (out / "reproduce.json").write_text(json.dumps({"table": "1a"}))
    assert main(words(synthetic, out, "--train.iterations", "2")) == 2
    assert "table was '1a', now it is '1b'. Choose another --out" in capsys.readouterr().err
    assert os.listdir(out) == ["reproduce.json"]


def test_a_second_command_into_one_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table"
    with RunLock(out):
        assert main(["reproduce", "1b", "--scale", "small", "--out", str(out)]) == 2
        assert [path.name for path in out.iterdir()] == ["lock.json"]
    assert f"{out}: another thread of this process is training here" in capsys.readouterr().err


def test_the_folder_is_locked_while_rows_train(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, locked = tmp_path / "table", []

    def run_jobs(*args: object) -> None:
        locked.append((out / "lock.json").exists())

    monkeypatch.setattr("hyperfocal.reproduce.runs.run_jobs", run_jobs)
    monkeypatch.setattr("hyperfocal.commands.reproduce._Report.time", lambda self: None)
    assert main(words(synthetic, out, "--train.iterations", "2")) == 0
    assert locked == [True]
    assert not (out / "lock.json").exists()
