"""Each row of each published table is one command that builds a valid experiment."""

from __future__ import annotations

import dataclasses
import shlex

import pytest
import torch

from hyperfocal.cli import main
from hyperfocal.config import override
from hyperfocal.losses import num_logits
from hyperfocal.models import Backbone, FasterRCNN
from hyperfocal.recipes import describe, docstring, load_recipe, published_rows
from hyperfocal.types import CategoryCounts

ROWS = [(name, row) for name in describe() for row in published_rows(docstring(name))]


def command(name: str) -> list[str]:
    """The words of the command in a recipe's docstring."""
    lines = docstring(name).replace("\\\n", " ").splitlines()
    (line,) = [line for line in lines if line.strip().startswith("hyperfocal train")]
    return shlex.split(line)[2:]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=lambda v: v if isinstance(v, str) else v.name)
def test_every_row_is_a_valid_experiment(name, row) -> None:
    recipe, *data = command(name)
    assert recipe == name
    experiment = override(load_recipe(name), [*data, *row.flags], "test")
    assert experiment.data.train.annotations is not None
    assert len(row.columns) == len(row.numbers)
    model, counts = experiment.model, CategoryCounts((1,) * 1203, (1,) * 1203, 1000)
    with torch.device("meta"):
        maps = (512, 1024, 2048) if model.neck.strides[0] == 8 else (256, 512, 1024, 2048)
        neck = model.neck.build(maps)
        if isinstance(model, FasterRCNN.Config):
            loss = model.loss.with_own_logits().build(1203, counts)
            roi = model.roi_head.build(neck.channels, neck.strides, 1203, loss)
            assert roi.cls_logits.out_features == num_logits(loss, 1203)
            return
        anchors = model.anchors.per_location
        head = model.head.build(neck.channels, anchors, 1203)
    assert head.cls_logits.out_channels == anchors * 1203


@pytest.mark.parametrize(
    "name", [n for n in describe() if n.endswith(("_lvis", "_openimages", "_coco"))]
)
def test_every_published_recipe_builds_its_detector(name) -> None:
    experiment = load_recipe(name)
    small = Backbone.Config("resnet18", pretrained=False, frozen_stages=2, norm="frozen")
    model = dataclasses.replace(experiment.model, backbone=small).build(3)
    assert model.num_classes == 3
    protocol = {"lvis": "lvis", "openimages": "openimages", "coco": "coco"}
    assert experiment.evaluation.protocol.kind == protocol[name.rpartition("_")[2]]


def test_the_rows_are_those_of_the_paper() -> None:
    """Li et al. 2022, Tables 1 to 7: all rows that can be trained."""
    rows = {(name, row.flags): row.numbers for name, row in ROWS}
    efl, r101 = ("--loss", "efl"), ("--model.backbone.name", "resnet101.tv_in1k")
    assert rows["improved_baseline_r50_lvis", ()] == (25.7, 14.3, 23.8, 32.7)
    assert rows["improved_baseline_r50_lvis", efl] == (27.5, 20.2, 26.1, 32.4)
    assert rows["improved_baseline_r50_openimages", (*efl, *r101)][0] == 52.6
    by_recipe = [name for name, _ in rows]
    assert {name: by_recipe.count(name) for name in by_recipe} == {
        "atss_r50_coco": 1,
        "atss_r50_lvis": 6,
        "faster_rcnn_r50_lvis": 10,
        "fcos_r50_coco": 2,
        "fcos_r50_lvis": 3,
        "improved_baseline_r50_lvis": 11,
        "improved_baseline_r50_openimages": 4,
        "paa_r50_coco": 2,
        "paa_r50_lvis": 3,
        "retinanet_r50_lvis": 4,
        "retinanet_r50_openimages": 2,
    }
    assert len(rows) == len(ROWS)  # no row's command is another's


def test_ablations_set_what_they_say() -> None:
    rows = {row.name: row.flags for name, row in ROWS if name.startswith(("improved", "atss"))}
    base, atss = load_recipe("improved_baseline_r50_lvis"), load_recipe("atss_r50_lvis")
    plain = override(atss, rows["Table 5: with EFL"], "test")
    assert plain == override(atss, ["--loss", "efl"], "test")
    assert (plain.train.warmup_iterations, plain.train.clip_norm) == (1000, None)
    assert plain.model.quality.target == "centerness"
    assert (plain.model.anchors.base_scales, plain.model.assigner.top_k) == ((8.0,), 9)
    assert plain.model.loss.kind == "efl"
    # Each part, and no more, is as in the improved baseline.
    stable = override(atss, rows["Table 5: EFL, STS"], "test")
    assert stable == dataclasses.replace(plain, train=base.train)
    for part, names in (("IB", ["quality"]), ("IA", ["anchors", "assigner"])):
        found = override(atss, rows[f"Table 5: EFL, STS, {part}"], "test")
        assert found.train == base.train
        changed = {
            field.name
            for field in dataclasses.fields(found.model)
            if getattr(found.model, field.name) != getattr(plain.model, field.name)
        }
        assert changed == set(names)
    assert found.model.anchors.base_scales == base.model.anchors.base_scales
    assert found.model.assigner == base.model.assigner
    branch = override(atss, rows["Table 5: EFL, STS, IB"], "test").model.quality
    assert branch.target == base.model.quality.target == "iou"
    for s in (0, 1, 2, 4, 12):
        assert override(base, rows[f"Table 4: s = {s}"], "test").model.loss.scale == s
    assert override(base, rows["Table 3: focusing factor alone"], "t").model.loss.factors == (
        "focusing"
    )


def test_the_command_prints_all_of_a_recipe(capsys) -> None:
    assert main(["recipes", "improved_baseline_r50_openimages"]) == 0
    printed = capsys.readouterr().out
    assert "AP1" in printed
    assert (
        "hyperfocal train improved_baseline_r50_openimages --loss efl --model.backbone" in printed
    )
    assert main(["recipes", "nothing"]) == 2
