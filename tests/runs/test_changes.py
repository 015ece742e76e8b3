"""``--resume`` compares the data with what the run was trained on, and names what has changed."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hyperfocal.config import override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import ConfigError, HyperfocalWarning

Change = Callable[[dict[str, Any]], None]


def plan(data: Path, *flags: str) -> Experiment:
    base, size = load_recipe("demo"), TransformConfig(short=64, long=64)
    train_config = dataclasses.replace(
        base.train, iterations=2, epochs=None, batch_size=2, evaluations=1, precision="fp32"
    )
    splits = dataclasses.replace(
        base.data,
        train=Split(data / "train.json", data / "train"),
        val=Split(data / "val.json", data / "val"),
        train_transform=size, val_transform=size, workers=0,
    )  # fmt: skip
    own = dataclasses.replace(base, train=train_config, data=splits, accelerator="cpu")
    return override(own, ["--model.backbone.name", "test_resnet", *flags], "test")


def run(experiment: Experiment, out: Path) -> None:
    train(experiment, RunFolder(out), Console(quiet=True))


def edit(file: Path, change: Change) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def swap_names(data: dict[str, Any]) -> None:
    a, b = data["categories"][:2]
    a["name"], b["name"] = b["name"], a["name"]


def one_more_category(data: dict[str, Any]) -> None:
    data["categories"].append({"id": 99, "name": "extra"})


def drop_an_image(data: dict[str, Any]) -> None:
    gone = data["images"].pop(0)["id"]
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] != gone]


def move_a_box(data: dict[str, Any]) -> None:
    data["annotations"][0]["bbox"][2] /= 2


def relabel_a_box(data: dict[str, Any]) -> None:
    a = data["annotations"][0]
    a["category_id"] = next(c["id"] for c in data["categories"] if c["id"] != a["category_id"])


def reverse(data: dict[str, Any]) -> None:
    data["images"].reverse()


CHANGES = [
    ("train", swap_names, r"label 0: '(.+)' \(id 1\) was '(.+)' \(id 1\); label 1: '\2'"),
    ("train", drop_an_image, "1 of 24 training images missing, such as"),
    ("train", move_a_box, "1 of 24 training images with a different size or boxes"),
    ("train", relabel_a_box, "1 of 24 training images with a different size or boxes"),
    ("train", reverse, "training images in a different order"),
    ("val", drop_an_image, "1 of 8 validation images missing"),
    ("val", move_a_box, "1 of 8 validation images with a different size or boxes"),
]


@pytest.mark.parametrize(("split", "change", "message"), CHANGES)
def test_changed_data_is_named_and_refused_unless_accepted(
    synthetic: Path, tmp_path: Path, split: str, change: Change, message: str
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(synthetic, data)
    run(plan(data), out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    edit(data / f"{split}.json", change)
    if change is swap_names:
        edit(data / "val.json", change)
    longer = ("--resume", "--train.iterations", "3")
    with pytest.raises(ConfigError, match=message) as caught:
        run(plan(data, *longer), out)
    assert "--accept-changed-data" in str(caught.value)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    with pytest.warns(HyperfocalWarning) as warned:  # of the steps too
        run(plan(data, *longer, "--accept-changed-data"), out)
    assert any(re.search(message, str(w.message)) for w in warned)
    names = [c["name"] for c in json.loads((data / "train.json").read_text())["categories"]]
    assert [c.name for c in RunFolder(out).read_categories().categories] == names
    with pytest.warns(HyperfocalWarning) as others:  # what was accepted is now the run's data
        run(plan(data, "--resume", "--train.iterations", "4"), out)
    assert not any("data has changed" in str(w.message) for w in others)


@pytest.mark.parametrize("flags", [(), ("--accept-changed-data",)])
def test_another_number_of_categories_is_never_taken(
    synthetic: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(synthetic, data)
    run(plan(data), out)
    for split in ("train.json", "val.json"):
        edit(data / split, one_more_category)
    with pytest.raises(
        ConfigError, match=r"6 categories, the data has 7.*only in the data: 'extra'"
    ):
        run(plan(data, "--resume", *flags), out)


def test_a_data_set_may_move(synthetic: Path, tmp_path: Path) -> None:
    shutil.copytree(synthetic, tmp_path / "moved" / "elsewhere")
    run(plan(synthetic), tmp_path / "run")
    with pytest.warns(HyperfocalWarning) as caught:  # of the paths among the settings alone
        run(plan(tmp_path / "moved" / "elsewhere", "--resume"), tmp_path / "run")
    assert not any("data has changed" in str(w.message) for w in caught)


def test_a_run_without_the_record_is_compared_by_its_counts(
    synthetic: Path, tmp_path: Path
) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(synthetic, data)
    run(plan(data), out)
    RunFolder(out).data.unlink()  # as an older version left it
    run(plan(data, "--resume"), out)
    edit(data / "train.json", drop_an_image)
    with pytest.raises(ConfigError, match=r"23 training images \(were 24\)"):
        run(plan(data, "--resume"), out)
