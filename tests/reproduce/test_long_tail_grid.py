"""The grid of losses, samplers and detectors: its trainings and its report."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hyperfocal.config import override
from hyperfocal.recipes import load_recipe
from hyperfocal.reproduce.runs import Job

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "long_tail.py"


@pytest.fixture
def grid() -> ModuleType:
    spec = importlib.util.spec_from_file_location("long_tail", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["long_tail"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def planned(grid: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> list[Job]:
    jobs: list[Job] = []
    monkeypatch.setattr(grid, "run_jobs", lambda every, *rest: jobs.extend(every))
    monkeypatch.setattr(sys, "argv", ["long_tail.py", "--out", str(out), *words])
    assert grid.main() == 0
    return jobs


def make_run(folder: Path, metrics: dict[str, float], seed: int, state: str = "finished") -> None:
    folder.mkdir(parents=True)
    (folder / "outcome.json").write_text(json.dumps({"seconds": 60.0, "state": state}))
    (folder / "config.json").write_text(json.dumps({"seed": seed}))
    (folder / "metrics.json").write_text(json.dumps({"metrics": metrics}))


def test_every_run_is_what_its_name_says(
    grid: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("retinanet", "improved_baseline")
    words = ["--models", *names, "--samplers", "plain", "rfs", "--rfs-threshold", "0.05"]
    words += ["--priors", "0.05", "--seeds", "0", "1", "--", "demo", "--train.batch-size", "4"]
    jobs = planned(grid, monkeypatch, tmp_path, *words)
    assert len({job.folder for job in jobs}) == len(jobs) == 2 * 2 * len(grid.LOSSES) * 2
    made: set[Any] = set()
    for job in jobs:
        recipe, *flags = job.words
        plan = override(load_recipe(recipe), flags, "test")
        model, _, sampler, prior = job.row.split("-")
        assert plan.seed == job.seed == int(job.folder.name.rpartition("-")[2])
        assert (plan.model.kind, plan.data.sampler.kind) == (model, sampler)
        assert prior == f"prior={plan.model.head.prior_probability}"
        assert sampler == "plain" or plan.data.sampler.threshold == 0.05
        assert plan.train.batch_size == 4
        made.add((model, sampler, plan.model.loss, plan.seed))
    assert len(made) == len(jobs)  # no two losses are the same
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)


def test_a_folder_keeps_one_set_of_flags(
    grid: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planned(grid, monkeypatch, tmp_path, "--", "demo", "--train.batch-size", "4")
    planned(grid, monkeypatch, tmp_path, "--seeds", "7", "--", "demo", "--train.batch-size", "4")
    with pytest.raises(SystemExit, match=r"Choose another --out"):
        planned(grid, monkeypatch, tmp_path, "--", "demo", "--train.batch-size", "8")


def test_gains_are_of_pairs_and_unfinished_runs_dont_count(
    grid: ModuleType, tmp_path: Path
) -> None:
    for seed, base in enumerate((0.10, 0.30, 0.90)):
        make_run(tmp_path / f"retinanet-focal-plain-{seed}", {"AP": base, "APr": 0.1}, seed)
    for seed, base in enumerate((0.12, 0.34)):
        make_run(tmp_path / f"retinanet-efl-plain-{seed}", {"AP": base, "APr": 0.4}, seed)
    make_run(tmp_path / "retinanet-efl-plain-2", {"AP": 0.0}, 2, state="interrupted")
    (tmp_path / "retinanet-cb_focal-plain-0").mkdir()  # stopped before it wrote its config
    early = tmp_path / "retinanet-cb_focal-plain-0" / "outcome.json"
    early.write_text(json.dumps({"seconds": 1.0, "state": "interrupted"}))
    lines = grid.table(tmp_path).splitlines()
    (focal,) = [line for line in lines if line.startswith("| retinanet | plain | focal")]
    assert "| 3 | 0.433 ± 0.416 |" in focal
    _, gain = [line for line in lines if line.startswith("| retinanet | plain | efl")]
    # 0.02 and 0.04: the third focal run has no partner.
    assert gain.startswith("| retinanet | plain | efl | 2 | +0.030 (-0.097 to +0.157) |")
    assert "+0.300 (+0.300 to +0.300)" in gain
    assert not any("cb_focal" in line for line in lines)


def test_a_run_of_another_seed_is_refused(grid: ModuleType, tmp_path: Path) -> None:
    make_run(tmp_path / "retinanet-focal-plain-1", {"AP": 0.1}, seed=0)
    with pytest.raises(SystemExit, match="trained with seed 0"):
        grid.table(tmp_path)
