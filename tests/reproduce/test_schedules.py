"""Every row of every table trains as long, at the rate and on the images that its paper states."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperfocal.config import override
from hyperfocal.experiment import Experiment
from hyperfocal.models import DenseConfig
from hyperfocal.recipes import docstring, load_recipe
from hyperfocal.reproduce import TABLES
from hyperfocal.reproduce.plan import Plan
from hyperfocal.reproduce.table import Row, Table

JITTER = (640, 672, 704, 736, 768, 800)


def rows(*names: str) -> list[tuple[Table, Row]]:
    return [(TABLES[name], row) for name in names for row in TABLES[name].rows if row.runnable]


def at_full_scale(table: Table, row: Row) -> Experiment:
    recipe, *flags = Plan(table, None, "full", (), Path("x"), None).words(row, 0)
    return override(load_recipe(recipe), flags, "test")


def steps(experiment: Experiment) -> list[float]:
    """The training's length and the places where the rate falls, in steps or epochs."""
    train = experiment.train
    assert train.schedule == "multistep"
    assert train.lr_decay == 0.1
    length = train.iterations or train.epochs
    assert (train.iterations is None) != (train.epochs is None)
    return [length, *(round(length * share, 6) for share in train.milestones)]


def shorter_sides(experiment: Experiment) -> tuple[tuple[int, ...], int]:
    """Of training images, and of validation images; both are flipped as published."""
    data = experiment.data
    train, val = data.train_transform, data.val_transform
    assert (train.flip, val.flip, train.zoom, val.zoom) == (0.5, 0.0, (1.0, 1.0), (1.0, 1.0))
    one = val.short if isinstance(val.short, int) else val.short[0]
    longest = round(one * 5 / 3)  # 1333 for 800, 1000 for 600
    assert train.long == val.long == pytest.approx(longest, abs=1)
    return (train.short,) if isinstance(train.short, int) else train.short, one


def assert_optimizer(experiment: Experiment, lr: float) -> None:
    train = experiment.train
    assert (train.optimizer, train.lr, train.momentum, train.weight_decay) == (
        "sgd", lr, 0.9, 1e-4,
    )  # fmt: skip
    assert (train.batch_size, train.ema_decay) == (16, None)


NINETY_K = ["1a", "1b", "1c", "1d", "1e", "3", "fl7", "prior"]


def test_no_table_is_left_out() -> None:
    of_efl = [f"efl{n}" for n in range(1, 8)]
    assert set(TABLES) == {*NINETY_K, "2", *of_efl}


@pytest.mark.parametrize(("table", "row"), rows(*NINETY_K), ids=lambda v: v.name)
def test_ablations_of_the_focal_loss_paper_take_90k_steps(table: Table, row: Row) -> None:
    experiment = at_full_scale(table, row)
    assert steps(experiment) == [90_000, 60_000, 80_000]
    assert_optimizer(experiment, 0.01)
    assert experiment.train.clip_norm is None
    assert experiment.data.sampler.kind == "plain"
    size = int(row.name.partition("-")[2]) if table.name == "1e" else 600
    assert shorter_sides(experiment) == ((size,), size)
    depth = row.name.partition("-")[0] if table.name == "1e" else "101"
    deep = table.name == "1d" or (table.name == "1e" and depth == "101")
    backbone = experiment.model.backbone
    assert backbone.name == f"resnet{101 if deep else 50}.tv_in1k"
    assert (backbone.frozen_stages, backbone.pretrained) == (2, True)
    assert experiment.model.kind == "retinanet"


@pytest.mark.parametrize(("table", "row"), rows("2"), ids=lambda v: v.name)
def test_its_best_ones_take_one_and_a_half_times_as_many(table: Table, row: Row) -> None:
    experiment = at_full_scale(table, row)
    assert steps(experiment) == [135_000, 90_000, 120_000]
    assert_optimizer(experiment, 0.01)
    assert shorter_sides(experiment) == (JITTER, 800)
    name = {"r101": "resnet101.tv_in1k", "x101": "resnext101_32x8d.tv_in1k"}[row.name]
    assert experiment.model.backbone.name == name
    assert experiment.model.loss.kind == "focal"


@pytest.mark.parametrize(
    ("table", "row"), rows(*(f"efl{n}" for n in range(1, 7))), ids=lambda v: v.name
)
def test_lvis_takes_24_epochs(table: Table, row: Row) -> None:
    experiment = at_full_scale(table, row)
    assert steps(experiment) == ([24, 16, 22] if row.after is None else [12, 8, 11])
    assert_optimizer(experiment, 0.02)
    if row.name.endswith("crt"):
        assert experiment.data.sampler.kind == "class_balanced"
    else:
        sampler = experiment.data.sampler
        assert (sampler.kind, sampler.rounding, sampler.threshold) == ("rfs", "ceil", 0.001)
    assert shorter_sides(experiment) == (JITTER, 800)
    assert experiment.evaluation.protocol.kind == "lvis"
    stable = experiment.model.kind in ("retinanet", "fcos", "improved_baseline") or (
        "sts" in row.name
    )
    expected = (6000, 35.0) if stable else (1000, None)
    assert (experiment.train.warmup_iterations, experiment.train.clip_norm) == expected
    inference, dense = experiment.model.inference, isinstance(experiment.model, DenseConfig)
    assert (inference.score_threshold, inference.max_detections) == (0.0 if dense else 1e-4, 300)
    if dense:
        assert experiment.model.head.prior_probability == 0.001
    assert experiment.model.backbone.frozen_stages == 2
    deep = row.name.startswith("r101")
    assert experiment.model.backbone.name == f"resnet{101 if deep else 50}.tv_in1k"


@pytest.mark.parametrize(("table", "row"), rows("efl7"), ids=lambda v: v.name)
def test_open_images_takes_180k_steps(table: Table, row: Row) -> None:
    experiment = at_full_scale(table, row)
    assert steps(experiment) == [180_000, 120_000, 160_000]
    assert_optimizer(experiment, 0.02)
    assert experiment.data.sampler.kind == "plain"
    assert shorter_sides(experiment) == ((800,), 800)
    assert (experiment.train.warmup_iterations, experiment.train.clip_norm) == (500, 35.0)
    assert experiment.evaluation.protocol.kind == "openimages"
    assert not experiment.evaluation.expand_detections


def test_the_first_row_of_the_ablation_is_atss_with_efl() -> None:
    table = TABLES["efl5"]
    first, last = table.rows[0], table.rows[-1]
    assert at_full_scale(table, first) == override(
        load_recipe("atss_r50_lvis"), ["--loss", "efl", "--seed", "0"], "test"
    )
    assert at_full_scale(table, last) == override(
        load_recipe("improved_baseline_r50_lvis"), ["--loss", "efl", "--seed", "0"], "test"
    )


def test_what_a_recipe_says_of_table_1e_is_its_row() -> None:
    """Its docstring gives the flags that make Table 1e's ResNet-101 at 800 pixels of it."""
    flags = ["--train.iterations", "90000", "--data.train-transform.short", "800"]
    assert " ".join(flags) in docstring("retinanet_r101_coco").replace("\n", " ")
    flags += ["--data.val-transform.short", "800"]  # as it is, but written as the row does
    ours = override(load_recipe("retinanet_r101_coco"), [*flags, "--seed", "0"], "test")
    (row,) = [row for row in TABLES["1e"].rows if row.name == "101-800"]
    assert ours == at_full_scale(TABLES["1e"], row)
