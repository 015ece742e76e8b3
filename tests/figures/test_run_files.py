"""The values that figures read from run files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hyperfocal.figures.run_files import read_log, read_metrics
from hyperfocal.types import DataError

STEPS = [
    {
        "kind": "step",
        "step": 1,
        "epoch": 0.1,
        "loss": 3.0,
        "classification": 2.0,
        "box": 1.0,
        "lr": 1,
    },
    {
        "kind": "step",
        "step": 2,
        "epoch": 0.2,
        "loss": 2.0,
        "classification": 1.5,
        "box": 0.5,
        "lr": 1,
    },
]
EVALUATION = {
    "kind": "evaluation", "step": 2, "epoch": 0.2,
    "AP": 0.5, "AP50": 0.7, "APs": None, "APr": 0.1, "APf": 0.8, "AP50r": 0.2, "AR100": 0.6,
}  # fmt: skip


def write_log(run: Path, *lines: object) -> Path:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text)
    return run


def test_columns_of_a_log(tmp_path):
    log = read_log(write_log(tmp_path, *STEPS, EVALUATION))
    assert log.steps.tolist() == [1, 2]
    assert {k: v.tolist() for k, v in log.losses.items()} == {
        "loss": [3, 2],
        "classification": [2, 1.5],
        "box": [1, 0.5],
    }
    assert log.evaluated.tolist() == [2]
    assert log.metrics["AP50"].tolist() == [0.7]
    assert math.isnan(log.metrics["APs"][0])
    assert log.groups == ("r", "f")


def test_the_later_of_two_lines_for_one_step_counts(tmp_path):
    log = read_log(write_log(tmp_path, *STEPS, STEPS[0] | {"loss": 9.0}))
    assert log.steps.tolist() == [1, 2]
    assert log.losses["loss"].tolist() == [9, 2]


def test_a_term_that_starts_late_is_nan_before(tmp_path):
    log = read_log(write_log(tmp_path, STEPS[0], STEPS[1] | {"quality": 0.3}))
    np.testing.assert_array_equal(log.losses["quality"], [np.nan, 0.3])


def test_a_line_cut_short_at_the_end_is_left_out(tmp_path):
    log = read_log(write_log(tmp_path, *STEPS, '{"kind": "st'))
    assert log.steps.tolist() == [1, 2]


@pytest.mark.parametrize("broken", ["{\n", "[1]\n", '{"kind": "other", "step": 1}\n', '{"a": 1}\n'])
def test_a_broken_line_is_named(tmp_path, broken):
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 "):
        read_log(write_log(tmp_path, STEPS[0], broken, STEPS[1]))


def test_a_log_that_is_missing_or_empty(tmp_path):
    with pytest.raises(DataError, match="a run folder"):
        read_log(tmp_path)
    with pytest.raises(DataError, match="no step"):
        read_log(write_log(tmp_path))


def test_metrics_of_categories(tmp_path):
    row = {
        "id": 7,
        "name": "cat",
        "AP": None,
        "AP50": 0.5,
        "gt": 3,
        "train_images": 9,
        "group": "r",
    }
    data = {"step": 4, "metrics": {"AP": 0.5, "APr": None}, "categories": [row]}
    (tmp_path / "metrics.json").write_text(json.dumps(data))
    measured = read_metrics(tmp_path)
    assert measured.metrics == {"AP": 0.5, "APr": None}
    (only,) = measured.categories
    assert (only.name, only.AP, only.AP50, only.gt, only.train_images, only.group) == (
        *("cat", None, 0.5, 3, 9, "r"),
    )


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"metrics": {}}', '{"metrics": {}, "categories": [{"name": "cat"}]}']
)
def test_something_else_in_place_of_metrics(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(DataError, match=r"metrics\.json: not the metrics"):
        read_metrics(tmp_path)


def test_what_the_evaluator_measures_can_be_read(tmp_path):
    """The field names of a category are the same on both sides of the file."""
    from dataclasses import asdict

    from hyperfocal.evaluation import CategoryMetrics

    row = asdict(CategoryMetrics(1, "cat", 0.25, 0.5, 3, 9, "r"))
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": {}, "categories": [row]}))
    assert read_metrics(tmp_path).categories[0].AP == 0.25
