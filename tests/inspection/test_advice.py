"""Advice follows from the measurements, and its printed command runs as it is."""

from __future__ import annotations

import dataclasses
import shlex

import numpy as np
import pytest
import torch
from tests.components import DENSE

from hyperfocal.config import dump, override
from hyperfocal.evaluation import FrequencyGroups
from hyperfocal.inspection import advise, examine, find_splits
from hyperfocal.inspection.advise_anchors import advise_anchors
from hyperfocal.inspection.advise_loss import advise_loss, advise_prior
from hyperfocal.inspection.advise_schedule import advise_lr, advise_sampler, advise_schedule
from hyperfocal.inspection.advise_size import advise_size
from hyperfocal.inspection.advise_start import advise_start
from hyperfocal.inspection.anchors import BoxTable, Fit, best_iou
from hyperfocal.inspection.measure import Measurements
from hyperfocal.losses import sigmoid_focal_loss
from hyperfocal.models import DenseConfig
from hyperfocal.recipes import describe, load_recipe
from hyperfocal.types import AnnotationSet, Category, CategoryCounts, ConfigError, ImageRecord

STRIDES = (8, 16, 32, 64, 128)


def measured(images, sides, ratios=(1.0,), num_images=1000, native=480.0, **fields):
    """Measurements of categories with these training images and boxes of these sizes."""
    rng = np.random.default_rng(0)
    side, ratio = (np.tile(np.array(v, float), 600)[:600] for v in (sides, ratios))
    w, h = side / np.sqrt(ratio), side * np.sqrt(ratio)
    x, y = rng.uniform(0, 400, 600), rng.uniform(0, 200, 600)
    labels = np.arange(600) % len(sides)
    index = np.zeros(600, np.int64)
    boxes = np.stack([x, y, x + w, y + h], axis=1)
    table = BoxTable(boxes, np.tile([480, 800], (600, 1)), labels, index, index)
    best = best_iou(table, load_recipe("retinanet_mobilenet").model.anchors, STRIDES)
    counts = CategoryCounts(tuple(images), tuple(images), num_images)
    values = {
        "categories": len(images),
        "images": num_images,
        "boxes": sum(images),
        "counts": counts,
        "groups": FrequencyGroups().assign(counts),
        "frequent": "f",
        "ratio": max(images) / min(images),
        "native_short": native,
        "table": table,
        "fit": Fit(table, best, 0.5, 0.4),
        "priors": 20_000.0,
        "positives": 40.0,
    }
    return Measurements(**(values | fields))


def split(images):
    """An `AnnotationSet` of 1000 images with one box each; category k is in ``images[k]``."""
    labels = np.repeat(np.arange(len(images)), images)[:1000]
    box, flag, area = np.array([[1.0, 1, 50, 50]]), np.zeros(1, np.bool_), np.array([2401.0])
    empty = np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0)
    records = [
        ImageRecord(n, None, 256, 256, box, labels[n : n + 1], flag, area)
        if n < len(labels)
        else ImageRecord(n, None, 256, 256, *empty)
        for n in range(1000)
    ]
    categories = tuple(Category(k, str(k)) for k in range(len(images)))
    return AnnotationSet(None, categories, tuple(records))


def test_few_images_are_better_fine_tuned(tmp_path):
    recipe = load_recipe("retinanet_mobilenet")
    few, many = measured([50, 50], [60], num_images=100), measured([50, 50], [60], num_images=5000)
    assert "--model.weights RUN" in advise_start(recipe, few).reason
    assert "--model.weights" not in advise_start(recipe, many).reason
    chosen = override(recipe, ["--model.weights", str(tmp_path)], prog="test")
    assert str(tmp_path) in advise_start(chosen, few).reason
    assert advise_start(recipe, few).flags == ()


# --------------------------------------------------------------------------- the whole


@pytest.mark.parametrize("recipe", list(describe()))
def test_the_printed_overrides_build_an_experiment(two, recipe):
    for n in range(1, 21):
        two.annotate("train", image_id=n, category_id=2, bbox=[3, 3, 9, 30])
    found = two.examine(recipe)
    original = load_recipe(recipe)
    data = found.experiment.data
    given = [
        *("--data.train.annotations", str(data.train.annotations)),
        *("--data.train.images", str(data.train.images)),
        *("--data.val.annotations", str(data.val.annotations)),
        *("--data.val.images", str(data.val.images)),
    ]
    advice = advise(found, original, recipe, given)
    words = shlex.split(advice.command)
    assert words[:3] == ["hyperfocal", "train", recipe]
    rebuilt = override(load_recipe(recipe), words[3:], prog="test")
    assert dump(rebuilt) == dump(advice.experiment)
    topics = [proposal.topic for proposal in advice.proposals]
    dense = ["anchors", "loss", "prior"] if isinstance(original.model, DenseConfig) else []
    assert topics == ["start", "image size", *dense, "sampler", "learning rate", "schedule"]
    for proposal in advice.proposals:
        assert proposal.reason
        assert proposal.source
    assert advice.as_json()["command"] == advice.command


def test_weights_by_category_are_read_and_kept(two):
    two.write()
    names = [c.name for c in two.examine("demo").train.categories]
    recipe = load_recipe("demo")
    found = two.examine("demo")
    flags = ["--loss.alpha", f"{names[0]}=0.5"]
    found = dataclasses.replace(found, experiment=override(found.experiment, flags, prog="test"))
    assert advise(found, recipe, "demo", flags).flags  # something is advised
    wrong = override(found.experiment, ["--loss.alpha", "nothing=0.5"], prog="test")
    with pytest.raises(ConfigError, match="'nothing', which isn't a category"):
        advise(dataclasses.replace(found, experiment=wrong), recipe, "demo")


@pytest.mark.parametrize("kind", [c.kind for c in DENSE if c.kind != "retinanet"])
def test_every_dense_detector_is_advised(two, kind):
    two.write()
    recipe = override(load_recipe("demo"), ["--model", kind], prog="test")
    data = dataclasses.replace(recipe.data, **find_splits(two.root))
    recipe = dataclasses.replace(recipe, data=data)
    advice = advise(examine(recipe), recipe, "demo")
    assert 0 < advice.measured.positives < advice.measured.priors
    (anchors,) = [proposal for proposal in advice.proposals if proposal.topic == "anchors"]
    assert anchors.flags == ()


def test_no_advice_without_training_data(two):
    two.data["train"]["annotations"].clear()
    assert advise(two.examine(), load_recipe("demo"), "demo") is None


def test_measurements_count_what_the_assigner_does(two):
    found = two.examine()
    advice = advise(found, load_recipe("demo"), "demo")
    m = advice.measured
    assert (m.categories, m.images, m.boxes, m.ratio) == (2, 20, 30, 2.0)
    assert m.groups == ("c", "r")
    # 128 x 160 pixels, 6 shapes: 16 x 20 + 8 x 10 + 4 x 5 + 2 x 3 + 1 x 2 locations.
    assert m.priors == 6 * (320 + 80 + 20 + 6 + 2)
    assert 0 < m.positives < m.priors


# --------------------------------------------------------------------------- each rule


def test_large_objects_need_no_larger_images():
    recipe = load_recipe("retinanet_mobilenet")
    assert advise_size(recipe, measured([50, 50], [60, 90])).flags == ()


def test_small_objects_do_even_if_they_are_one_category_of_few_boxes():
    recipe = load_recipe("retinanet_mobilenet")
    proposal = advise_size(recipe, measured([50, 50, 50], [25, 90, 90]))
    sized = override(recipe, proposal.flags, prog="test").data
    # 256 * 32 / 25, down to a multiple of 32.
    assert sized.train_transform.shorts == sized.val_transform.shorts == (320,)
    # 448 * 320 / 256, up to a multiple of 32.
    assert sized.train_transform.long == sized.val_transform.long == 576


def test_images_grow_by_half_at_most_and_not_beyond_what_they_have():
    recipe = load_recipe("retinanet_mobilenet")
    grown = advise_size(recipe, measured([50], [5]))
    assert grown.flags[:2] == ("--data.train-transform.short", "384")
    assert advise_size(recipe, measured([50], [5], native=160.0)).flags == ()


def test_anchors_that_fit_are_kept_and_others_fitted():
    recipe = load_recipe("retinanet_mobilenet")
    assert advise_anchors(recipe, measured([50], [60, 90])).flags == ()
    tall = measured([50], [16, 24, 60], ratios=[6.0, 5.0, 7.0, 6.5])
    assert tall.fit.share > 0.5
    proposal = advise_anchors(recipe, tall)
    anchors = override(recipe, proposal.flags, prog="test").model.anchors
    assert max(anchors.ratios) > 4
    assert (best_iou(tall.table, anchors, STRIDES) < 0.5).mean() < 0.5 * tall.fit.share


def test_focal_for_background_and_efl_for_a_large_long_tailed_vocabulary():
    recipe = load_recipe("retinanet_mobilenet")
    assert advise_loss(recipe, measured([300, 4], [60])).flags == ()
    many = measured([1000] * 100 + [5] * 100, [60])
    flags = advise_loss(recipe, many).flags
    assert flags[:2] == ("--loss", "efl")
    efl = override(recipe, flags, prog="test")
    assert efl.train.warmup_iterations == 6000
    assert advise_loss(efl, many).flags == ()
    assert advise_prior(efl, many).flags == ("--model.head.prior-probability", "0.001")
    odd = override(recipe, ["--loss.gamma", "5"], prog="test")
    assert advise_loss(odd, measured([300, 4], [60])).flags == (
        "--loss.gamma", "2", "--loss.alpha", "0.25"
    )  # fmt: skip
    assert advise_loss(recipe, measured([9], [60], priors=100.0)).flags == ("--loss", "ce")


@pytest.mark.parametrize("priors", [20_000.0, 2e8])
def test_the_prior_keeps_the_background_below_the_objects(priors):
    recipe = load_recipe("retinanet_mobilenet")
    m = measured([50] * 80, [60], priors=priors)
    flags = advise_prior(recipe, m).flags
    prior = override(recipe, flags, prog="test").model.head.prior_probability if flags else 0.01
    assert (prior < 0.01) == (priors > 1e6)

    def start(prior: float) -> tuple[float, float]:
        logit = torch.tensor([[np.log(prior / (1 - prior))]], dtype=torch.float64)
        one = [float(sigmoid_focal_loss(logit, torch.tensor([k]))[0, 0]) for k in (1, 0)]
        return one[0] * priors * 80 / m.positives, one[1]

    background, positive = start(prior)
    assert background <= positive
    if prior < 0.01:
        background, positive = start(prior * 10)
        assert background > positive


def test_advice_has_the_number_of_categories_that_efl_affects_by_prior():
    efl = override(load_recipe("retinanet_mobilenet"), ["--loss", "efl"], "test")
    # 20,000 priors in each of 1000 images, a positive for each box of the one image with boxes:
    # at 0.01 a ratio below 1 takes n+ / n- < 9e-6, fewer than about 180 positives.
    m = measured([900, 500, 100, 10], [50], boxes=1510, positives=1510.0)
    assert "initial number, of 4, by prior: 0 at 0.001, 2 at 0.01" in (advise_prior(efl, m).reason)
    assert "gradient ratio" not in advise_prior(load_recipe("retinanet_mobilenet"), m).reason


def test_rare_categories_are_repeated():
    recipe = load_recipe("retinanet_mobilenet")
    images = [300, 200, 150, 100, 50, 20, 4]
    proposal = advise_sampler(recipe, measured(images, [60]), split(images))
    sampler = override(recipe, proposal.flags, prog="test").data.sampler
    # LVIS's bound, 100 of 1000 images: the category in exactly 100 isn't repeated.
    assert sampler.threshold == pytest.approx(0.1)
    assert "3 of 7 categories" in proposal.reason
    balanced = [100, 90, 95]
    assert advise_sampler(recipe, measured(balanced, [60]), split(balanced)).flags == ()
    small = [12, 5, 4, 3, 1]
    quartile = advise_sampler(recipe, measured(small, [60]), split(small))
    assert "3 of 5 categories are in fewer than 5 of" in quartile.reason


def test_lvis_gets_lviss_threshold():
    images = [1500, 500, 150, 101, 100, 60, 30, 8, 3]
    m = measured(images, [60], num_images=100_170)
    flags = advise_sampler(load_recipe("retinanet_mobilenet"), m, split(images)).flags
    assert float(flags[-1]) == pytest.approx(0.001, rel=0.01)


def test_the_rate_follows_the_batch():
    sgd, adam = load_recipe("retinanet_r50_coco"), load_recipe("retinanet_mobilenet")

    def at(recipe, batch):
        train = dataclasses.replace(recipe.train, batch_size=batch)
        return advise_lr(dataclasses.replace(recipe, train=train), recipe).flags

    assert at(sgd, 16) == ()
    assert at(sgd, 32) == ("--train.lr", "0.02")
    assert at(adam, 32) == ("--train.lr", "0.002")
    chosen = override(sgd, ["--train.batch-size", "4", "--train.lr", "0.5"], prog="test")
    assert advise_lr(chosen, sgd).flags == ()


def test_schedules_are_neither_a_few_steps_nor_hundreds_of_passes():
    small, coco = load_recipe("retinanet_mobilenet"), load_recipe("retinanet_r50_coco")
    balanced, tailed = [100, 100], [300, 4]
    assert advise_schedule(small, measured(balanced, [60]), split(balanced)).flags == ()
    more = advise_schedule(small, measured(tailed, [60]), split(tailed))
    assert more.flags == ("--train.epochs", "24")
    # 90k steps of 16 images are 1440 passes of 1000.
    less = advise_schedule(coco, measured(balanced, [60]), split(balanced))
    assert less.flags == ("--train.iterations", "None", "--train.epochs", "12")
    override(coco, less.flags, prog="test")
