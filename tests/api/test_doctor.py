"""`hyperfocal.doctor`: findings and advice as objects, for files and for objects in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.api.conftest import Squares

import hyperfocal
from hyperfocal.api.doctor import as_settings
from hyperfocal.api.settings import as_experiment
from hyperfocal.recipes import load_recipe

QUICK: dict[str, Any] = {"model.backbone.name": "test_resnet", "model.backbone.pretrained": False}


def test_files_and_objects_give_the_same_findings_and_advice(
    synthetic: Path, tmp_path: Path
) -> None:
    files = [(synthetic / f"{name}.json", synthetic / name) for name in ("train", "val")]
    by_file = hyperfocal.doctor(*files, settings=QUICK, verbose=False)
    train = hyperfocal.read_annotations(*files[0])
    val = hyperfocal.read_annotations(*files[1], split="val", categories=train.categories)
    in_memory = hyperfocal.doctor(train, val, settings=QUICK, verbose=False)
    assert not by_file.has_errors
    assert in_memory.settings == by_file.settings
    assert by_file.settings
    kinds = {finding.kind for finding in by_file.findings}
    assert {finding.kind for finding in in_memory.findings} == kinds
    assert "Advice for retinanet_mobilenet" in str(by_file)
    assert "sandbox" in by_file._repr_html_()
    assert by_file.write_html(tmp_path / "page.html").stat().st_size > 1000


def test_copies_in_both_splits_are_found_in_memory() -> None:
    found = hyperfocal.doctor(
        Squares(12), Squares(3), categories=["red", "orange"], settings=QUICK, verbose=False
    )
    copies = [f for f in found.findings if "similar to a training image" in f.text]
    assert copies
    assert copies[0].count == 3
    other = hyperfocal.doctor(
        Squares(12), None, categories=["red", "orange"], settings=QUICK, verbose=False
    )
    assert any(finding.kind == "no_val" for finding in other.findings)


def test_errors_are_findings(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    found = hyperfocal.doctor(tmp_path / "broken.json", settings=QUICK, verbose=False)
    assert found.has_errors
    assert found.advice is None
    assert found.settings == {}


def test_flags_become_settings_that_give_the_same_experiment() -> None:
    flags = ["--train.lr", "0.5", "--model.anchors.ratios", "0.5", "1", "--sampler", "rfs"]
    flags += ["--data.no-group-by-aspect", "--train.epochs=3"]
    settings = as_settings([w for word in flags for w in word.split("=")])
    from hyperfocal.config import override

    recipe = load_recipe("retinanet_mobilenet")
    assert as_experiment(recipe, settings) == override(recipe, flags, "test")


@pytest.mark.parametrize("value", [np.zeros((8, 8, 3), np.uint8), 5])
def test_other_objects_are_refused(value: Any) -> None:
    with pytest.raises(hyperfocal.DataError):
        hyperfocal.doctor([value], categories=["a"], settings=QUICK, verbose=False)
