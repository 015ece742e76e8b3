"""Every row is a valid experiment; the published numbers bear the paper's conclusions out."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from hyperfocal.config import override
from hyperfocal.experiment import Experiment
from hyperfocal.recipes import docstring, load_recipe, published_rows
from hyperfocal.reproduce import TABLES
from hyperfocal.reproduce.judge import Outcome, judge
from hyperfocal.reproduce.plan import Plan, synthetic_set
from hyperfocal.reproduce.table import Fails, Table
from hyperfocal.types import CategoryCounts

RUNNABLE = [(t, r) for t in TABLES.values() for r in t.rows if r.runnable]


@pytest.mark.parametrize("scale", ["full", "small"])
@pytest.mark.parametrize(("table", "row"), RUNNABLE, ids=lambda v: v.name)
def test_every_row_is_a_valid_experiment(table: Table, row, scale) -> None:
    if scale == "small":
        plan = Plan(table, "demo", "small", (), Path("x"), table.small_set)
    else:
        plan = Plan(table, None, "full", ("--data.train.annotations", "t.json"), Path("x"), None)
    recipe, *flags = plan.words(row, 4)
    experiment = override(load_recipe(recipe), flags, "test")
    assert experiment.seed == 4
    assert experiment.data.train.annotations is not None
    assert len(row.numbers) in (0, len(table.columns))
    experiment.model.loss.build(5, CategoryCounts((1,) * 5, (1,) * 5, 10))


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_names_are_unique_and_conclusions_name_rows(table: Table) -> None:
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    for claim in table.claims:
        named = (
            (claim.row,) if isinstance(claim, Fails)
            else getattr(claim, "over", ()) + getattr(claim, "under", ())
            or (claim.row, claim.other)
        )  # fmt: skip
        assert set(named) <= set(names)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_published_numbers_hold_the_papers_conclusions(table: Table) -> None:
    """As if two seeds had both given the published numbers."""
    results = {}
    for row in table.rows:
        numbers = dict(zip(table.columns, row.numbers, strict=False))
        one = Outcome(numbers) if numbers else Outcome({}, diverged_at=100)
        results[row.name] = {0: one, 1: one}
    for claim in table.claims:
        assert judge(claim, results).answer == "holds", claim.text


@pytest.mark.parametrize(
    "table",
    [t for t in TABLES.values() if t.name.startswith("efl")],
    ids=lambda t: t.name,
)
def test_published_numbers_are_those_of_the_recipes(table: Table) -> None:
    """The recipe's docstring has a row that builds the same experiment, with the same numbers."""
    columns = ("AP", "r", "c", "f") if "APr" in table.columns else ("AP", *table.columns[1:])
    for row in table.rows:
        if row.runnable:
            name = row.recipe or table.recipe
            stated = [
                (published.columns, published.numbers)
                for published in published_rows(docstring(name))
                if experiment(name, published.flags) == experiment(name, row.flags)
            ]
            assert stated == [(columns, row.numbers)], row.name


def test_published_numbers_of_the_focal_loss_paper() -> None:
    rows = {row.name: row for row in TABLES["1e"].rows}
    ap, ap50, ap75, _ = rows["50-800"].numbers
    assert f"Published: AP {ap}, AP50 {ap50}, AP75 {ap75}" in docstring("retinanet_r50_coco")
    assert f"Table 1e's {rows['101-800'].numbers[0]} " in docstring("retinanet_r101_coco")
    for row in TABLES["2"].rows:
        if row.runnable:
            ap, ap50, ap75 = row.numbers[:3]
            stated = f"Published: AP {ap}, AP50 {ap50}, AP75 {ap75}"
            assert stated in docstring(row.recipe or TABLES["2"].recipe)


@functools.cache
def experiment(recipe: str, flags: tuple[str, ...]) -> Experiment:
    return override(load_recipe(recipe), flags, "test")


def test_rows_set_what_their_names_say() -> None:
    def built(table: str, row: str, scale="full"):
        found = TABLES[table]
        (own,) = [r for r in found.rows if r.name == row]
        small = scale == "small"
        synthetic = found.small_set if small else None
        plan = Plan(found, "demo" if small else None, scale, (), Path("x"), synthetic)
        recipe, *flags = plan.words(own, 0)
        return override(load_recipe(recipe), flags, "test")

    assert built("1a", "alpha=0.999").model.loss.alpha == 0.999
    assert built("1b", "gamma=0.5").model.loss.alpha == 0.5
    assert built("1b", "gamma=0.5").data.val_transform.short == 600
    mined = built("1d", "ohem13-256-0.5").model
    assert (mined.mining.keep, mined.mining.nms_iou, mined.mining.one_to_three) == (256, 0.5, True)
    assert mined.backbone.name.startswith("resnet101")
    assert built("1d", "fl").model.mining is None
    assert built("2", "x101", "small").model.backbone.name == "resnet10t"
    assert built("efl2", "r101-efl", "small").model.backbone.name == "resnet10t"
    assert built("efl2", "r50-efl", "small").model.backbone.name == "test_resnet"
    for scale in ("full", "small"):
        assert built("efl5", "sts-ia", scale).model.assigner.top_k == 18
        assert built("efl5", "sts-ib", scale).model.quality.target == "iou"
        assert built("efl5", "sts-ib", scale).train.clip_norm == 35
        assert built("efl5", "atss", scale).model.kind == "atss"
        assert built("efl7", "r50-efl", scale).model.kind == "improved_baseline"
        assert built("efl7", "r101-retinanet", scale).model.kind == "retinanet"
    assert built("1c", "2x1").model.anchors.per_location == 2
    assert built("1e", "101-800").data.val_transform.short == 800
    small = built("1e", "101-600", "small")
    assert (small.model.backbone.name, small.data.val_transform.short) == ("resnet10t", 160)
    assert built("prior", "without").model.head.prior_probability == 0.5
    assert built("prior", "without", "small").train.optimizer == "sgd"
    assert built("1a", "alpha=0.50", "small").train.optimizer == "adamw"
    for scale in ("full", "small"):
        assert built("efl6", "fcos-efl", scale).model.kind == "fcos"
        assert built("efl6", "fcos-efl", scale).model.loss.kind == "efl"
        assert built("efl4", "s=2", scale).model.kind == "improved_baseline"
    assert built("1a", "alpha=0.50", "small").model.kind == "retinanet"
    assert built("1a", "alpha=0.50", "small").train.iterations == 600
    # More categories, and a prior at which the ratios start below 1.
    long_tail = built("efl6", "improved_baseline-efl", "small")
    assert (long_tail.train.iterations, long_tail.model.head.prior_probability) == (1080, 0.05)
    assert built("efl6", "improved_baseline-efl").model.head.prior_probability == 0.001


def test_more_imbalance_is_a_larger_image_with_the_same_objects() -> None:
    one, four = (synthetic_set(TABLES["1b"].small_set, factor) for factor in (1.0, 4.0))
    assert one == TABLES["1b"].small_set
    assert four.image_size == 2 * one.image_size
    assert four.objects_per_image == one.objects_per_image
    for name in ("min_object", "max_object"):
        in_pixels = [getattr(s, name) * s.image_size for s in (one, four)]
        assert in_pixels[0] == pytest.approx(in_pixels[1])
