"""Training on some of a dataset's categories: the run, its evaluation and doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import Squares

import hyperfocal
from hyperfocal.types import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::hyperfocal.HyperfocalWarning")


def test_a_run_has_the_chosen_categories_only(
    synthetic: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    train = (synthetic / "train.json", synthetic / "train")
    val = (synthetic / "val.json", synthetic / "val")
    names = [category.name for category in hyperfocal.read_annotations(*train).categories]
    chosen = [names[2], names[0]]
    run = hyperfocal.train(
        "demo",
        train=train,
        val=val,
        out=tmp_path / "run",
        settings=tiny | {"data.categories": chosen},
        verbose=False,
    )
    assert [category.name for category in run.categories] == [names[0], names[2]]
    assert run.experiment.data.categories == tuple(chosen)
    result = hyperfocal.evaluate(run, val)
    assert result.metrics["AP"] == pytest.approx(run.metrics["AP"], abs=1e-6)
    with pytest.raises(ConfigError, match="categories"):
        hyperfocal.train(
            "demo",
            train=train,
            val=val,
            out=tmp_path / "run",
            settings=tiny | {"data.categories": [names[0]], "resume": True},
            verbose=False,
        )


def test_a_misspelt_category_is_an_error_before_training(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="did you mean 'orange'"):
        hyperfocal.train(
            "demo",
            train=Squares(4),
            categories=["red", "orange"],
            out=tmp_path / "run",
            settings=tiny | {"data.categories": ["orage"]},
            verbose=False,
        )
    assert not (tmp_path / "run").exists()


def test_doctor_measures_the_chosen_categories(synthetic: Path) -> None:
    data = (synthetic / "train.json", synthetic / "train")
    names = [category.name for category in hyperfocal.read_annotations(*data).categories]
    found = hyperfocal.doctor(data, settings={"data.categories": names[:2]})
    assert found.advice is not None
    assert found.advice.measured.categories == 2
