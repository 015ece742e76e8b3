"""``--loss.alpha "cat=0.5,dog=0.2"``: names become one value per category before the first step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console
from tests.components import LOSSES

import hyperfocal
from hyperfocal.api.settings import as_experiment
from hyperfocal.config import override
from hyperfocal.config.by_category import values_of, with_categories
from hyperfocal.data import Split, TransformConfig
from hyperfocal.engine.train import train
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import Category, ConfigError

NAMES = ["cat", "dog", "a=b", "x, y"]


def values(text: str, default: float | None = 0.25) -> tuple[float, ...]:
    return values_of(text, NAMES, default, "model.loss.alpha")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat=0.5,dog=0.2", (0.5, 0.2, 0.25, 0.25)),
        (" dog = 0.2 ", (0.25, 0.2, 0.25, 0.25)),
        ("a=b=0.75", (0.25, 0.25, 0.75, 0.25)),
        ("*=0.1,cat=1", (1.0, 0.1, 0.1, 0.1)),
        ('{"x, y": 0.5, "cat": 0}', (0.0, 0.25, 0.25, 0.5)),
    ],
)
def test_names_become_one_value_a_category(text: str, expected: tuple[float, ...]) -> None:
    assert values(text) == expected


def test_a_file_of_pairs_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat=0.5\n\nx, y = 0.2\n")
    assert values(str(tmp_path / "a.txt")) == (0.5, 0.25, 0.25, 0.2)
    (tmp_path / "a.json").write_text(json.dumps({"dog": 0.9, "*": 0.5}))
    assert values(str(tmp_path / "a.json")) == (0.5, 0.9, 0.5, 0.5)
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"b\.json: expected an object of numbers"):
        values(str(tmp_path / "b.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cta=0.5", r"names 'cta', which isn't a category \(did you mean 'cat'\?\)"),
        ("cat=0.5,cat=0.2", "names 'cat' twice"),
        ("cat=much", r"of 'cat' is 'much', but it must be a number in \[0, 1\]"),
        ("cat=1.5", "of 'cat' is '1.5'"),
        ("cat=nan", "of 'cat' is 'nan'"),
        ('{"cat": true}', "of 'cat' is True"),
        ("cat=0.5,dog", "'dog' is not a NAME=NUMBER pair"),
        ("missing.json", "not a number, NAME=NUMBER pairs or a file"),
        ("{cat: 1}", "not readable as JSON"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        values(text)


def test_a_loss_without_a_default_wants_them_all() -> None:
    with pytest.raises(ConfigError, match=r"has no value for 'dog'.*\*=0\.5"):
        values("cat=0.5", None)
    assert values("cat=0.5,*=0.4", None) == (0.5, 0.4, 0.4, 0.4)


def test_the_default_is_the_losss_own() -> None:
    categories = [Category(n, name) for n, name in enumerate(NAMES)]
    known = {}
    for loss in LOSSES:
        if "alpha" in loss.by_category and (default := loss().alpha) is not None:
            words = ["--loss", loss.kind, "--loss.alpha", "dog=0.5"]
            plan = override(load_recipe("demo"), words, "test")
            found = with_categories(plan, categories).model.loss.alpha
            assert found == (default, 0.5, default, default)
            known[loss.kind] = default
    assert known.items() >= {("focal", 0.25), ("efl", 0.25), ("vfl", 0.75)}
    plain = load_recipe("demo")
    assert with_categories(plain, categories) is plain


def test_a_run_records_the_values_reloads_and_resumes(synthetic: Path, tmp_path: Path) -> None:
    names = [c["name"] for c in json.loads((synthetic / "train.json").read_text())["categories"]]
    base, size = load_recipe("demo"), TransformConfig(short=64, long=64)
    config = dataclasses.replace(
        base.train, iterations=2, epochs=None, batch_size=2, evaluations=1, precision="fp32"
    )
    data = dataclasses.replace(
        base.data,
        train=Split(synthetic / "train.json", synthetic / "train"),
        val=Split(synthetic / "val.json", synthetic / "val"),
        train_transform=size, val_transform=size, workers=0,
    )  # fmt: skip
    plan = as_experiment(
        dataclasses.replace(base, train=config, data=data, accelerator="cpu"),
        {"model.backbone.name": "test_resnet", "loss.alpha": {names[1]: 0.75}},
    )
    train(plan, RunFolder(tmp_path), Console(quiet=True))
    saved = json.loads(RunFolder(tmp_path).config.read_text())["model"]["loss"]["alpha"]
    assert saved == [0.25, 0.75, 0.25, 0.25, 0.25, 0.25]
    assert hyperfocal.load(tmp_path, device="cpu").detector.loss.alpha.tolist() == saved
    train(dataclasses.replace(plan, resume=True), RunFolder(tmp_path), Console(quiet=True))
    wrong = override(plan, ["--loss.alpha", "nothing=0.5", "--overwrite"], "test")
    before = RunFolder(tmp_path).config.read_text()
    with pytest.raises(ConfigError, match="'nothing', which isn't a category"):
        train(wrong, RunFolder(tmp_path), Console(quiet=True))
    assert RunFolder(tmp_path).config.read_text() == before
