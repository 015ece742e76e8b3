from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hyperfocal.data.samplers import (
    ClassBalancedSampler,
    PlainSampler,
    RepeatFactorSampler,
    category_repeat_factors,
    image_repeat_factors,
)
from hyperfocal.types import (
    AnnotationSet,
    Category,
    CategoryCounts,
    ConfigError,
    DataError,
    ImageRecord,
)


def annotated(labels: list[list[int]], num_categories: int, crowd: bool = False) -> AnnotationSet:
    """One image per list of labels."""
    records = tuple(
        ImageRecord(
            id=n + 1,
            path=Path(f"{n}.jpg"),
            height=10,
            width=10,
            boxes=np.tile([1.0, 1.0, 5.0, 5.0], (len(own), 1)),
            labels=np.array(own, dtype=np.int64),
            crowd=np.full(len(own), crowd),
            area=np.full(len(own), 16.0),
        )
        for n, own in enumerate(labels)
    )
    categories = tuple(Category(n, f"c{n}") for n in range(num_categories))
    return AnnotationSet(Path("train.json"), categories, records)


# 90 images of category 0, 9 with both 0 and 1, 1 of category 2, 20 empty.
TAIL = annotated([[0, 0]] * 90 + [[0, 1]] * 9 + [[2]] + [[]] * 20, 4)
CONFIGS = [
    PlainSampler.Config(),
    RepeatFactorSampler.Config(threshold=0.3),
    RepeatFactorSampler.Config(threshold=0.3, rounding="ceil"),
    ClassBalancedSampler.Config(),
]


@pytest.mark.parametrize("settings", CONFIGS)
def test_an_epoch_is_a_pure_function_of_seed_and_epoch(settings):
    first, again, other = (settings.build(TAIL, seed) for seed in (5, 5, 6))
    again.epoch_indices(3)  # asking for another epoch changes nothing
    for epoch in (0, 1, 7):
        indices = first.epoch_indices(epoch)
        assert indices.dtype == np.int64
        np.testing.assert_array_equal(indices, again.epoch_indices(epoch))
        assert indices.tolist() != other.epoch_indices(epoch).tolist()
        assert indices.tolist() != first.epoch_indices(epoch + 1).tolist()
        assert indices.min() >= 0
        assert indices.max() < len(TAIL.images)


@pytest.mark.parametrize("settings", CONFIGS)
def test_the_length_of_an_epoch_is_as_announced(settings):
    sampler = settings.build(TAIL, 0)
    mean = np.mean([len(sampler.epoch_indices(epoch)) for epoch in range(200)])
    assert mean == pytest.approx(sampler.epoch_length, rel=0.01)


def test_plain_shows_every_image_once():
    indices = PlainSampler.Config().build(TAIL, 0).epoch_indices(4)
    assert sorted(indices.tolist()) == list(range(120))


def test_repeat_factors_of_lvis():
    # 100 170 training images, t = 0.001: categories in 1, 10, 50 and 101 images.
    counts = CategoryCounts((1, 10, 50, 101, 0), (1, 10, 50, 101, 0), 100_170)
    found = category_repeat_factors(counts, 0.001)
    np.testing.assert_allclose(found, [10.0085, 3.1650, 1.4154, 1, 1], atol=5e-5)


def test_an_image_takes_the_largest_factor_of_its_categories():
    factors = image_repeat_factors(TAIL, 0.3)
    of = [max(1, np.sqrt(0.3 / (n / 120))) for n in (99, 9, 1)]
    np.testing.assert_allclose(factors, [of[0]] * 90 + [of[1]] * 9 + [of[2]] + [1] * 20)


def test_crowds_and_empty_sets_have_factor_one():
    crowds = annotated([[0], [1], []], 2, crowd=True)
    np.testing.assert_array_equal(image_repeat_factors(crowds, 1.0), [1, 1, 1])


def test_stochastic_rounding_repeats_by_the_factor_on_average():
    sampler = RepeatFactorSampler.Config(threshold=0.3).build(TAIL, 1)
    epochs = 2000
    drawn = sum(np.bincount(sampler.epoch_indices(epoch), minlength=120) for epoch in range(epochs))
    factors = image_repeat_factors(TAIL, 0.3)
    part = factors % 1
    # Five standard errors of a Bernoulli mean.
    error = 5 * np.sqrt(part * (1 - part) / epochs) + 1e-12
    assert (np.abs(drawn / epochs - factors) <= error).all()
    one = np.bincount(sampler.epoch_indices(0), minlength=120)
    assert ((one == np.floor(factors)) | (one == np.ceil(factors))).all()


def test_ceil_rounds_up_every_time():
    sampler = RepeatFactorSampler.Config(threshold=0.3, rounding="ceil").build(TAIL, 1)
    expected = np.ceil(image_repeat_factors(TAIL, 0.3))
    for epoch in range(3):
        drawn = np.bincount(sampler.epoch_indices(epoch), minlength=120)
        np.testing.assert_array_equal(drawn, expected)


def test_ceil_is_not_misled_by_rounding_error():
    # sqrt(0.54 / (3 / 50)) is 3 in exact arithmetic.
    few = annotated([[0]] * 3 + [[]] * 47, 1)
    assert image_repeat_factors(few, 0.54)[0] > 3
    sampler = RepeatFactorSampler.Config(threshold=0.54, rounding="ceil").build(few, 0)
    assert sampler.epoch_length == 3 * 3 + 47


def test_class_balanced_shows_every_category_equally_often():
    sampler = ClassBalancedSampler.Config().build(TAIL, 0)
    drawn = sampler.epoch_indices(0)
    assert len(drawn) == 120
    times = np.bincount(drawn, minlength=120)
    assert times[99] == 40  # the one image of category 2: a third of all draws
    assert times[100:].sum() == 0  # images without boxes
    # Category 1's nine images share another third evenly; category 0 may add to them.
    assert (times[90:99] >= 4).all()
    # In every round of three, each category once.
    for start in range(0, 120, 3):
        assert (drawn[start : start + 3] == 99).sum() == 1


def test_class_balanced_shows_other_images_of_a_large_category_each_epoch():
    sampler = ClassBalancedSampler.Config().build(TAIL, 0)
    seen = {index for epoch in range(12) for index in sampler.epoch_indices(epoch).tolist()}
    assert len(seen) == 100


def test_class_balanced_needs_boxes():
    with pytest.raises(DataError, match=r"train\.json: no boxes to balance"):
        ClassBalancedSampler.Config().build(annotated([[], []], 2), 0)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_impossible_thresholds(threshold):
    with pytest.raises(ConfigError, match="rfs: threshold = "):
        RepeatFactorSampler.Config(threshold=threshold)
