"""Decoupled training: a row that starts from another row's weights waits for it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperfocal.reproduce import runs
from hyperfocal.reproduce.focal_loss import TABLES
from hyperfocal.reproduce.plan import Plan, with_first_stages
from hyperfocal.reproduce.runs import Job, run_jobs
from hyperfocal.reproduce.table import Row, Table

ROWS = (
    Row("second", ("--loss", "focal"), after="first"),
    Row("first", ("--loss", "ce")),
    Row("other", ("--loss", "focal")),
)
TABLE: Table = dataclasses.replace(TABLES[0], rows=ROWS, claims=())

FAKE = """
import json, pathlib, sys, time
folder, diverges = pathlib.Path(sys.argv[1]), sys.argv[2] == "True"
time.sleep(0.2)
if diverges:
    print("step 3: the loss is nan")
    sys.exit(1)
(folder / "metrics.json").write_text(json.dumps({"metrics": {"AP": 0.5}}))
"""
"""A training that takes a moment."""


def plan(out: Path) -> Plan:
    return Plan(TABLE, "demo", "small", (), out, TABLE.small_set)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The jobs started, each with the finished ones at that time; rows named "bad" diverge."""
    order: list[tuple[str, list[str]]] = []

    def start(job: Job, slot: int, threads: int, gpus: int) -> runs._Running:
        done = sorted(p.parent.name for p in job.folder.parent.glob("*/outcome.json"))
        order.append((job.row, done))
        job.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-c", FAKE, str(job.folder), str(job.row == "bad")]
        with job.log.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        return runs._Running(job, slot, process, time.monotonic(), 0)

    monkeypatch.setattr(runs, "_start", start)
    return order


def test_the_second_stage_starts_from_the_first_ones_weights(tmp_path: Path) -> None:
    made = plan(tmp_path)
    jobs = made.jobs(ROWS, [0, 1])
    assert [(job.row, job.seed) for job in jobs[:3]] == [("second", 0), ("first", 0), ("other", 0)]
    for job in jobs:
        first = tmp_path / f"first-{job.seed}"
        expected = first if job.row == "second" else None
        assert (None if job.after is None else job.after.folder) == expected
        assert (
            made.experiment(
                next(row for row in ROWS if row.name == job.row), job.seed
            ).model.weights
            == expected
        )


def test_only_a_second_stage_trains_its_first_stage_too() -> None:
    chosen = with_first_stages(TABLE, [ROWS[0]])
    assert [row.name for row in chosen] == ["second", "first"]
    assert with_first_stages(TABLE, [ROWS[2]]) == [ROWS[2]]


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_a_second_stage_waits(
    tmp_path: Path, started: list[tuple[str, list[str]]], at_a_time: int
) -> None:
    done: list[str] = []
    jobs = plan(tmp_path).jobs(ROWS, [0])
    assert run_jobs(jobs, at_a_time, 0, lambda job: done.append(job.row)) is None
    assert sorted(done) == ["first", "other", "second"]
    finished = dict(started)["second"]
    assert "first-0" in finished
    assert json.loads((tmp_path / "second-0" / "outcome.json").read_text())["state"] == "finished"


def test_a_diverged_first_stage_leaves_the_second_untrained(
    tmp_path: Path, started: list[tuple[str, list[str]]]
) -> None:
    bad = Job("bad", 0, tmp_path / "bad-0", ())
    second = Job("second", 0, tmp_path / "second-0", (), bad)
    endings: dict[str, str] = {}
    run_jobs([second, bad], 2, 0, lambda job: endings.update({job.row: job.ending()}))
    assert endings == {
        "bad": "diverged at step 3",
        "second": "not trained, because bad diverged",
    }
    assert [name for name, _ in started] == ["bad"]
