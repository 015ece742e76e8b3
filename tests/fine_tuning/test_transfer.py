"""Fine-tuning: tensors are loaded by name and shape, and the rest is reported."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.components import DENSE, kind_of, small_flags
from torch import Tensor

import hyperfocal
from hyperfocal import config as configs
from hyperfocal.config import Config, override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment
from hyperfocal.fine_tuning.source import read_source
from hyperfocal.fine_tuning.transfer import build_detector
from hyperfocal.models import ATSS, YOLOX, Detector, FasterRCNN
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.categories import TrainedCategories
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.weights import save_weights
from hyperfocal.types import Batch, Category, CategoryCounts, ConfigError, HyperfocalWarning, Target

KINDS = [config.kind for config in DENSE]
SOURCE = ["bar", "disc", "ring", "star"]


def experiment(*flags: str) -> Experiment:
    small = ["--model.backbone.name", "test_resnet", "--model.backbone.no-pretrained"]
    return override(load_recipe("demo"), [*flags, *small, "--model.head.depth", "1"], "test")


def named(names: list[str]) -> tuple[Category, ...]:
    return tuple(Category(3 * n + 1, name) for n, name in enumerate(names))


def counts(k: int) -> CategoryCounts:
    return CategoryCounts((5,) * k, (9,) * k, 20)


def make_run(folder: Path, plan: Experiment, names: list[str] = SOURCE) -> Detector:
    """A run folder with a detector whose weights are all different from their initial ones."""
    torch.manual_seed(7)
    model = plan.model.offline().build(len(names), counts(len(names)))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and not name.startswith("pixels"):
                value.add_(0.05 * torch.randn_like(value))
    run = RunFolder(folder)
    run.start(plan, TrainedCategories(named(names), counts(len(names))))
    save_weights(run.weights, model)
    return model.eval()


def started(plan: Experiment, source: Path, names: list[str]) -> tuple[Detector, Any]:
    torch.manual_seed(8)
    config = dataclasses.replace(plan.model, weights=source)
    model, taken = build_detector(config, named(names), counts(len(names)))
    assert taken is not None
    return model.eval(), taken


def batch() -> Batch:
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    hw = torch.tensor([[64, 64]] * 2)
    return Batch(images.to(torch.uint8), hw, hw, (nothing,) * 2, (1, 2))


def logits(model: Detector) -> Tensor:
    with torch.no_grad():
        levels = model.features(batch())
        return model.head.classify(model.head.cls_maps(levels))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "names",
    [SOURCE, ["star", "bar"], ["new", "disc", "bar", "other", "star", "ring"], ["a", "b", "c"]],
    ids=["same", "subset", "superset", "renamed"],
)
def test_before_the_first_step_kept_categories_are_the_sources(
    tmp_path: Path, kind: str, names: list[str]
) -> None:
    plan = experiment("--model", kind)
    source = make_run(tmp_path / "run", plan)
    model, taken = started(plan, tmp_path / "run", names)
    theirs, own = logits(source), logits(model)
    kept = [name for name in names if name in SOURCE]
    assert list(taken.kept) == kept
    assert set(taken.new) == set(names) - set(SOURCE)
    assert set(taken.dropped) == set(SOURCE) - set(names)
    for name in kept:
        torch.testing.assert_close(own[..., names.index(name)], theirs[..., SOURCE.index(name)])
    prior = plan.model.head.prior_probability
    for name in taken.new:  # as it was initialised: near the prior everywhere
        scores = own[..., names.index(name)].sigmoid()
        assert scores.mean() == pytest.approx(prior, rel=0.5)
    with torch.no_grad():
        levels, expected = model.features(batch()), source.features(batch())
        torch.testing.assert_close(
            model.head.regress(model.head.box_maps(levels)),
            source.head.regress(source.head.box_maps(expected)),
        )
    if names == SOURCE:
        model.inference.score_threshold = source.inference.score_threshold = 0.0
        for found, wanted in zip(model.detect(batch()), source.detect(batch()), strict=True):
            assert len(wanted.scores)
            torch.testing.assert_close(found.boxes, wanted.boxes)
            torch.testing.assert_close(found.scores, wanted.scores)
            assert found.labels.tolist() == wanted.labels.tolist()


def test_rows_of_several_anchors_are_each_taken(tmp_path: Path) -> None:
    plan = experiment("--model.anchors.ratios", "0.5", "1", "2")
    source = make_run(tmp_path / "run", plan)
    model, _ = started(plan, tmp_path / "run", ["star", "new"])
    rows = source.head.cls_logits.bias.view(-1, 4)
    anchors = len(rows)
    assert anchors == plan.model.anchors.per_location > 1
    assert torch.equal(model.head.cls_logits.bias.view(anchors, 2)[:, 0], rows[:, 3])


def test_a_second_stage_copies_scores_and_boxes_by_name(tmp_path: Path) -> None:
    small = ["--model.backbone.name", "test_resnet", "--model.backbone.no-pretrained"]
    flags = [*small_flags(FasterRCNN.Config), *small]
    plan = override(load_recipe("demo"), flags, "test")
    source = make_run(tmp_path / "run", plan)
    names = ["star", "new", "bar"]
    model, taken = started(plan, tmp_path / "run", names)
    assert list(taken.kept) == ["star", "bar"]
    for layer, size in (("cls_logits", 1), ("box_deltas", 4)):
        own, theirs = (getattr(m.roi_head, layer) for m in (model, source))
        for mine, rows in ((own.weight, theirs.weight), (own.bias, theirs.bias)):
            for name in taken.kept:
                at, was = size * names.index(name), size * SOURCE.index(name)
                assert torch.equal(mine[at : at + size], rows[was : was + size])
    own, theirs = model.roi_head.cls_logits.bias, source.roi_head.cls_logits.bias
    assert own[-1] == theirs[-1]  # the background
    assert own[1] == 0  # as it was initialised
    assert torch.equal(model.rpn.deltas.weight, source.rpn.deltas.weight)


@pytest.mark.parametrize("loss", ["bags", "seesaw", "focal"])
def test_another_layout_of_logits_starts_anew(loss: str, tmp_path: Path) -> None:
    """The classifier alone: boxes of the same categories are still regressed by the source."""
    small = ["--model.backbone.name", "test_resnet", "--model.backbone.no-pretrained"]
    flags = [*small_flags(FasterRCNN.Config), *small]
    source = make_run(tmp_path / "run", override(load_recipe("demo"), flags, "test"))
    other = override(load_recipe("demo"), [*flags, "--loss", loss], "test")
    model, taken = started(other, tmp_path / "run", SOURCE)
    assert set(taken.left) >= {"roi_head.cls_logits.weight", "roi_head.cls_logits.bias"}
    assert taken.kept == ()
    assert list(taken.new) == SOURCE
    assert torch.equal(model.roi_head.layers[0].weight, source.roi_head.layers[0].weight)
    assert torch.equal(model.roi_head.box_deltas.weight, source.roi_head.box_deltas.weight)


def test_a_loss_with_memory_keeps_it_for_the_same_categories_alone(tmp_path: Path) -> None:
    plan = experiment("--loss", "efl")
    source = make_run(tmp_path / "run", plan)
    same, _ = started(plan, tmp_path / "run", SOURCE)
    assert torch.equal(same.loss.ratio, source.loss.ratio)
    swapped, _ = started(plan, tmp_path / "run", SOURCE[::-1])
    assert swapped.loss.ratio.tolist() == [1.0] * 4
    other, _ = started(experiment("--loss", "eqlv2_focal"), tmp_path / "run", SOURCE)
    assert not torch.equal(other.loss.pos_grad, source.loss.pos_grad)


def test_what_depends_on_the_new_counts_is_never_taken(tmp_path: Path) -> None:
    plan = experiment("--loss", "eql")
    source = make_run(tmp_path / "run", plan)
    with torch.no_grad():
        source.loss.rare.fill_(1 - source.loss.rare.to(source.loss.rare.dtype).max().item())
    save_weights(RunFolder(tmp_path / "run").weights, source)
    fresh = plan.model.build(4, counts(4))
    model, _ = started(plan, tmp_path / "run", SOURCE)
    assert torch.equal(model.loss.rare, fresh.loss.rare)
    assert not torch.equal(model.loss.rare, source.loss.rare)


def test_a_name_that_stands_for_two_categories_stands_for_none(tmp_path: Path) -> None:
    plan = experiment()
    source = make_run(tmp_path / "run", plan, ["N/A", "bar", "N/A"])
    _, taken = started(plan, tmp_path / "run", ["N/A", "bar"])
    assert taken.kept == ("bar",)
    model, taken = started(plan, tmp_path / "run", ["N/A", "bar", "N/A"])
    assert len(taken.kept) == 3
    torch.testing.assert_close(logits(model), logits(source))


def test_what_was_copied_is_reported(tmp_path: Path) -> None:
    plan = experiment("--model.neck.channels", "96")
    make_run(tmp_path / "run", plan)
    other = experiment("--model.neck.channels", "64", "--model.pixels.bgr")
    _, taken = started(other, tmp_path / "run", ["Bar", "disc"])
    text = str(taken)
    assert "0 of 2 categories new: Bar, disc; dropped: bar, disc, ring, star" in text
    assert "'Bar' is new, but the source has 'bar'" in text
    assert "model.pixels.bgr = True (source: False)" in text
    assert "model.neck.channels = 64 (source: 96)" in text
    assert "prior" not in text
    assert any(name.startswith("neck.") for name in taken.left)
    assert json.loads(json.dumps(taken.as_json()))["categories_dropped"] == SOURCE


def test_a_file_alone_has_no_names_so_the_classifier_starts_anew(tmp_path: Path) -> None:
    plan = experiment()
    make_run(tmp_path / "run", plan)
    shutil.copy(RunFolder(tmp_path / "run").weights, tmp_path / "alone.safetensors")
    _, taken = started(plan, tmp_path / "alone.safetensors", SOURCE)
    assert "head.cls_logits.weight" in taken.left
    assert "no categories.json beside the weights" in str(taken)
    _, taken = started(plan, RunFolder(tmp_path / "run").weights, SOURCE)
    assert taken.kept == tuple(SOURCE)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": torch.zeros(1)}, "it has 1 tensors, such as x"),
        ({"backbone.body.conv1.weight": torch.zeros(1)}, "hyperfocal import torchvision"),
    ],
)
def test_weights_of_something_else_are_named(
    tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=message) as caught:
        started(experiment(), tmp_path / "w.pth", SOURCE)
    assert "w.pth: not weights of this detector" in str(caught.value)


def test_messages_say_how_to_use_a_backbone_alone_and_another_backbone(tmp_path: Path) -> None:
    plan = experiment()
    model = make_run(tmp_path / "run", plan)
    torch.save(model.backbone.net.state_dict(), tmp_path / "backbone.pth")
    with pytest.raises(ConfigError, match=r"--model\.backbone\.weights .*backbone\.pth"):
        started(plan, tmp_path / "backbone.pth", SOURCE)
    other = override(plan, ["--model.backbone.name", "resnet18"], "test")
    with pytest.raises(ConfigError, match=r"add --model\.backbone\.name test_resnet"):
        started(other, tmp_path / "run", SOURCE)


def test_missing_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none: no such weights file"):
        read_source(tmp_path / "none")
    with pytest.raises(ConfigError, match="not a run folder"):
        read_source(tmp_path)
    RunFolder(tmp_path).start(experiment(), TrainedCategories(named(SOURCE)))
    with pytest.raises(ConfigError, match="no weights yet"):
        read_source(tmp_path)
    RunFolder(tmp_path).checkpoints.mkdir()
    (RunFolder(tmp_path).checkpoints / "00000001.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match="is a checkpoint, for --resume"):
        read_source(RunFolder(tmp_path).checkpoints / "00000001.pt")


def test_build_refuses_what_it_can_not_load(tmp_path: Path) -> None:
    plan = dataclasses.replace(experiment().model, weights=tmp_path)
    with pytest.raises(ConfigError, match="build_detector"):
        plan.build(3)
    with pytest.raises(ConfigError, match="set only one"):
        dataclasses.replace(plan, backbone=dataclasses.replace(plan.backbone, weights=tmp_path))


# ------------------------------------------------------------------- whole trainings


def on(synthetic: Path, plan: Experiment, *flags: str) -> Experiment:
    size = TransformConfig(short=64, long=64)
    train_config = dataclasses.replace(
        plan.train, iterations=2, epochs=None, batch_size=2, evaluations=1, precision="fp32"
    )
    data = dataclasses.replace(
        plan.data,
        train=Split(synthetic / "train.json", synthetic / "train"),
        val=Split(synthetic / "val.json", synthetic / "val"),
        train_transform=size, val_transform=size, workers=0,
    )  # fmt: skip
    own = dataclasses.replace(plan, train=train_config, data=data, accelerator="cpu")
    return override(own, list(flags), "test")


def names_of(synthetic: Path) -> list[str]:
    return [c["name"] for c in json.loads((synthetic / "train.json").read_text())["categories"]]


def test_a_fine_tuned_run_reloads_and_resumes_without_its_source(
    synthetic: Path, tmp_path: Path
) -> None:
    plan, out, source = experiment(), tmp_path / "out", tmp_path / "run"
    make_run(source, plan, names_of(synthetic)[:3])
    flags = ("--model.weights", str(source))
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    train(on(synthetic, plan, *flags), RunFolder(out), console)
    assert "3 of 6 categories kept by name" in console.export_text()
    assert json.loads(RunFolder(out).config.read_text())["model"]["weights"] == str(source)
    known = json.loads(RunFolder(out).environment.read_text())["weights_from"]
    assert known["categories_kept"] == names_of(synthetic)[:3]
    shutil.rmtree(source)
    hyperfocal.load(out, device="cpu").predict(torch.zeros(3, 64, 64))
    longer = on(synthetic, plan, *flags, "--resume", "--train.iterations", "3")
    with pytest.warns(HyperfocalWarning, match=r"train\.iterations = 3"):
        train(longer, RunFolder(out), Console(quiet=True))
    assert json.loads(RunFolder(out).environment.read_text())["weights_from"] == known


def test_training_the_head_alone_leaves_the_rest_to_the_bit(
    synthetic: Path, tmp_path: Path
) -> None:
    plan, out, source = experiment(), tmp_path / "out", tmp_path / "run"
    before = make_run(source, plan, names_of(synthetic)).state_dict()
    flags = ("--model.weights", str(source), "--train.only", "head", "--train.ema-decay", "None")
    train(on(synthetic, plan, *flags), RunFolder(out), Console(quiet=True))
    after = hyperfocal.load(out, device="cpu").detector.state_dict()
    for name, value in before.items():
        if name.startswith(("backbone.", "neck.")):
            assert torch.equal(after[name], value), name
    assert not torch.equal(after["head.cls_logits.bias"], before["head.cls_logits.bias"])


def test_a_run_folder_is_a_recipe_of_fine_tuning_it(synthetic: Path, tmp_path: Path) -> None:
    plan = experiment("--model", "atss", "--lr", "0.003")
    make_run(tmp_path / "run", plan, names_of(synthetic))
    own = load_recipe(str(tmp_path / "run"))
    assert own.model.weights == tmp_path / "run"
    assert own.train == plan.train
    assert configs.dump(own.model)["head"] == configs.dump(plan.model)["head"]
    assert own.out == Path("runs/run_finetuned")
    train(on(synthetic, own), RunFolder(tmp_path / "out"), Console(quiet=True))


def test_a_second_training_of_the_head_with_all_categories_alike(
    synthetic: Path, tmp_path: Path
) -> None:
    """The command of docs/fine_tuning.md."""
    before = make_run(tmp_path / "run", experiment(), names_of(synthetic)).state_dict()
    words = ("--sampler", "class_balanced", "--train.only", "head")
    plan = on(synthetic, load_recipe(str(tmp_path / "run")), *words)
    train(plan, RunFolder(tmp_path / "out"), Console(quiet=True))
    assert RunFolder(tmp_path / "out").read_experiment().data.sampler.kind == "class_balanced"
    after = hyperfocal.load(tmp_path / "out", device="cpu").detector.state_dict()
    assert all(torch.equal(after[n], v) for n, v in before.items() if n.startswith("backbone."))
    assert not torch.equal(after["head.cls_logits.weight"], before["head.cls_logits.weight"])


@pytest.mark.parametrize("config", [ATSS.Config, YOLOX.Config, FasterRCNN.Config], ids=kind_of)
def test_classifier_retraining_changes_nothing_else(
    synthetic: Path, tmp_path: Path, config: type[Config]
) -> None:
    """cRT: the classifier is initialised again and trained alone, also with trainable norms."""
    small = ["--model.backbone.name", "test_resnet", "--model.backbone.no-pretrained"]
    first = override(load_recipe("demo"), [*small_flags(config), *small], "test")
    before = make_run(tmp_path / "run", first, names_of(synthetic)).state_dict()
    words = ("--from", str(tmp_path / "run"), "--train.only", "classifier")
    words += ("--model.reset-classifier", "--sampler", "class_balanced")
    plan = on(synthetic, first, *words, "--train.ema-decay", "None")
    train(plan, RunFolder(tmp_path / "out"), Console(quiet=True))
    after = hyperfocal.load(tmp_path / "out", device="cpu").detector
    layer = f"{after.classifier}."
    for name, value in after.state_dict().items():
        if name.startswith(layer):
            assert not torch.equal(value, before[name]), name
        else:
            assert torch.equal(value, before[name]), name
    again = dataclasses.replace(plan, resume=True)
    with pytest.warns(HyperfocalWarning, match="iterations"):
        train(override(again, ["--train.iterations", "3"], "test"), RunFolder(tmp_path / "out"),
              Console(quiet=True))  # fmt: skip
    resumed = hyperfocal.load(tmp_path / "out", device="cpu").detector.state_dict()
    assert all(torch.equal(v, before[n]) for n, v in resumed.items() if not n.startswith(layer))


def test_a_reset_classifier_is_initialised_like_a_new_one(tmp_path: Path) -> None:
    plan = experiment()
    source = make_run(tmp_path / "run", plan)
    plan = dataclasses.replace(plan, model=dataclasses.replace(plan.model, reset_classifier=True))
    model, taken = started(plan, tmp_path / "run", SOURCE)
    torch.manual_seed(8)
    fresh = plan.model.offline().build(len(SOURCE), counts(len(SOURCE)))
    for name, value in model.head.cls_logits.state_dict().items():
        assert torch.equal(value, fresh.head.cls_logits.state_dict()[name])
    assert torch.equal(model.head.box_deltas.weight, source.head.box_deltas.weight)
    assert taken.kept == ()
    with pytest.raises(ConfigError, match="reset_classifier needs the weights"):
        build_detector(plan.model, named(SOURCE), counts(4))


@pytest.mark.parametrize("flag", ["--overwrite", "--resume"])
def test_a_run_is_never_written_over_the_weights_it_starts_from(
    synthetic: Path, tmp_path: Path, flag: str
) -> None:
    plan, source = experiment(), tmp_path / "run"
    make_run(source, plan, names_of(synthetic))
    weights = RunFolder(source).weights.read_bytes()
    with pytest.raises(ConfigError, match=r"--out|can't be resumed"):
        train(
            on(synthetic, plan, "--model.weights", str(source), flag), RunFolder(source), Console()
        )
    assert RunFolder(source).weights.read_bytes() == weights
