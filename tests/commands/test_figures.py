"""`hyperfocal figures`: which figures, from which runs and images, and their numbers."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hyperfocal
from hyperfocal.cli import main
from hyperfocal.commands.figures import FROM_FUNCTIONS
from hyperfocal.commands.figures_of_runs import FROM_RUNS, run_names, spread_out
from hyperfocal.config import override
from hyperfocal.data import eval_batches, read_annotations
from hyperfocal.probes.category_sums import sum_by_category
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.categories import TrainedCategories
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.weights import save_weights
from hyperfocal.types import ConfigError


@pytest.fixture(scope="module")
def runs(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs, focal and EFL, with random weights."""
    root, made = tmp_path_factory.mktemp("runs"), []
    train = read_annotations(synthetic / "train.json", synthetic / "train", check="none")
    for seed, loss in enumerate(("focal", "efl")):
        words = (
            f"--loss {loss} --model.head.depth 1 "
            f"--data.train.annotations {synthetic}/train.json "
            f"--data.train.images {synthetic}/train "
            f"--data.val.annotations {synthetic}/val.json --data.val.images {synthetic}/val"
        )
        experiment = override(load_recipe("demo"), words.split(), "test")
        torch.manual_seed(seed)
        model = experiment.model.build(len(train.categories), train.counts())
        run = RunFolder(root / loss)
        run.start(experiment, TrainedCategories(train.categories, train.counts()))
        save_weights(run.weights, model)
        made.append(run.path)
    return made


def table(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def numbers(cells: list[str]) -> np.ndarray:
    return np.array([float(cell) if cell else np.nan for cell in cells])


def test_figures_of_functions_need_no_run(tmp_path: Path) -> None:
    assert main(["figures", *FROM_FUNCTIONS, "--out", str(tmp_path)]) == 0
    for name in FROM_FUNCTIONS:
        assert {p.suffix for p in tmp_path.glob(f"{name}.*")} == {".png", ".svg", ".csv"}
    assert len(table(tmp_path / "fl1.csv")["p_t"]) > 100


def test_figures_of_runs_hold_what_a_pass_over_their_data_gives(
    runs: list[Path], synthetic: Path, tmp_path: Path
) -> None:
    assert main(["figures", *map(str, runs), "--most", "6", "--out", str(tmp_path)]) == 0
    assert {p.stem for p in tmp_path.iterdir()} == set(FROM_RUNS)
    for path in runs:
        model = hyperfocal.load(path, device="cpu").predictor
        data = RunFolder(path).read_experiment().data
        counts = RunFolder(path).read_categories().counts
        assert counts is not None
        order = np.argsort(-np.array(counts.images), kind="stable")
        found = {}
        for split in ("train", "val"):
            annotations = read_annotations(
                synthetic / f"{split}.json",
                synthetic / split,
                categories=model.categories,
                check="none",
            )
            batches = eval_batches(data, spread_out(annotations, 6), batch_size=3)
            with model.autocast():
                found[split] = sum_by_category(model.detector, batches, model.device)
        imbalance, margin = table(tmp_path / "efl2.csv"), table(tmp_path / "efl4.csv")
        expected = found["train"].gradient_ratio().log10().numpy()[order]
        got = numbers(imbalance[f"log10 gradient ratio, {path.name}"])
        np.testing.assert_allclose(got, expected, rtol=2e-2, atol=2e-3)  # in bf16
        np.testing.assert_allclose(
            numbers(imbalance["log10 samples ratio, focal, efl"]),
            found["train"].count_ratio().log10().numpy()[order],
            rtol=1e-5,
        )
        got = numbers(margin[f"score margin, {path.name}"])
        np.testing.assert_allclose(got, found["val"].margin().numpy()[order], atol=1e-4)
        assert [int(n) for n in margin["train_images"]] == sorted(counts.images, reverse=True)


def test_one_figure_of_given_images(runs: list[Path], synthetic: Path, tmp_path: Path) -> None:
    where = [
        "--data.annotations",
        str(synthetic / "val.json"),
        "--data.images",
        str(synthetic / "val"),
    ]
    assert main(["figures", "efl2", str(runs[0]), *where, "--out", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"efl2.png", "efl2.svg", "efl2.csv"}


def test_images_are_spread_over_the_split(synthetic: Path) -> None:
    annotations = read_annotations(synthetic / "train.json", synthetic / "train", check="none")
    every = annotations.images
    assert spread_out(annotations, 0).images == every
    assert spread_out(annotations, 999).images == every
    assert spread_out(annotations, 4).images == every[::6]


def test_runs_are_named_by_what_distinguishes_them() -> None:
    assert run_names([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    assert run_names([Path("/a/x/0"), Path("/a/y/0")]) == ["x/0", "y/0"]
    with pytest.raises(ConfigError, match="named twice"):
        run_names([Path("/a/x"), Path("/a/x")])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fl9"], "fl9 is neither a run folder nor a figure (fl1,"),
        (["efl3x"], "Did you mean efl3?"),
        (["efl4"], "efl4 shows runs"),
        (["fl1", "--most", "-1"], "--most -1"),
        (["fl1", "--data.images", "x"], "--data.images needs --data.annotations"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figures", *words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_that_do_not_go_together(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = RunFolder(tmp_path / "other")
    experiment = RunFolder(runs[0]).read_experiment()
    data = dataclasses.replace(experiment.data, train=type(experiment.data.train)())
    trained = RunFolder(runs[0]).read_categories()
    other.start(dataclasses.replace(experiment, data=data), trained)
    save_weights(other.weights, hyperfocal.load(runs[0], device="cpu").detector)
    out = ["--out", str(tmp_path / "out")]
    assert main(["figures", "efl2", str(other.path), *out]) == 2
    assert "has no train split: give --data.annotations" in capsys.readouterr().err
    entries = json.loads(other.categories.read_text())
    entries["categories"][0]["name"] = "something else"
    other.categories.write_text(json.dumps(entries))
    assert main(["figures", str(runs[0]), str(other.path), *out]) == 2
    assert "have different categories" in capsys.readouterr().err
