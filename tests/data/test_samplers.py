from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.config import kinds
from hyperfocal.data.batches import BatchStream, rank_slice
from hyperfocal.data.samplers import (
    ClassBalancedSampler,
    ImageWeightSampler,
    PlainSampler,
    RepeatFactorSampler,
    SamplerConfig,
    category_repeat_factors,
    image_repeat_factors,
    image_weights,
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
    ImageWeightSampler.Config(),
    ImageWeightSampler.Config(power=0),
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


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.floats(1e-4, 1.0), st.integers(0, 2**32))
def test_repeat_factors_equal_the_rule_read_word_by_word(num_images, categories, threshold, seed):
    """Gupta et al. 2019: f_c, r_c = max(1, sqrt(t / f_c)), r_I = max over the image's c."""
    rng = np.random.default_rng(seed)
    held = [np.flatnonzero(rng.random(categories) < 0.2).tolist() * 2 for _ in range(num_images)]
    of_category = {}
    for c in range(categories):
        with_c = 0
        for image in held:
            if c in image:
                with_c += 1
        if with_c:
            of_category[c] = max(1.0, math.sqrt(threshold / (with_c / num_images)))
    expected = [max([of_category[c] for c in image], default=1.0) for image in held]
    annotations = annotated(held, categories)
    np.testing.assert_allclose(image_repeat_factors(annotations, threshold), expected, rtol=1e-12)
    found = category_repeat_factors(annotations.counts(), threshold)
    assert [found[c] for c in of_category] == pytest.approx(list(of_category.values()))


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


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_image_weights_draw_categories_by_a_power_of_their_images(power):
    """The weight is what drawing a category, then one of its images, gives."""
    images = np.array([99, 9, 1])
    category = images**power / (images**power).sum()
    members = [range(99), range(90, 99), [99]]
    expected = np.zeros(120)
    for chance, own in zip(category, members, strict=True):
        for image in own:
            expected[image] += chance / len(own)
    weights = image_weights(TAIL, power)
    np.testing.assert_allclose(weights / weights.sum(), expected)
    sampler = ImageWeightSampler.Config(power=power).build(TAIL, 3)
    np.testing.assert_allclose(sampler.expected, 120 * expected)


def test_an_images_turns_are_its_expected_number_rounded():
    sampler = ImageWeightSampler.Config().build(TAIL, 0)
    epochs = 2000
    drawn = np.stack(
        [np.bincount(sampler.epoch_indices(epoch), minlength=120) for epoch in range(epochs)]
    )
    assert (drawn >= np.floor(sampler.expected)).all()
    assert (drawn <= np.ceil(sampler.expected)).all()
    assert (drawn.sum(1) == 120).all()
    part = sampler.expected % 1
    error = 5 * np.sqrt(part * (1 - part) / epochs) + 1e-9
    assert (np.abs(drawn.mean(0) - sampler.expected) <= error).all()


def test_crowds_weigh_nothing():
    annotations = annotated([[0]] * 3 + [[1]], 2, crowd=True)
    with pytest.raises(DataError, match=r"train\.json: no boxes to weigh images by"):
        ImageWeightSampler.Config().build(annotations, 0)
    with pytest.raises(ConfigError, match=r"image_weights: power = 1\.5"):
        ImageWeightSampler.Config(power=1.5)


def test_every_sampler_is_held_to_what_follows():
    assert {type(settings) for settings in CONFIGS} == set(kinds(SamplerConfig).values())


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("settings", CONFIGS)
def test_ranks_share_the_stream_without_repeats_or_gaps(settings, world_size):
    """Over three epochs, from any step, the shares in turn are the sampler's own order."""
    sampler, size = settings.build(TAIL, 2), 6
    order = np.concatenate([sampler.epoch_indices(epoch) for epoch in range(4)]).tolist()
    steps = len(order) // size
    for start in (0, 1, 7, steps - 1):  # 7: in the middle of an epoch
        shares = [
            [
                [draw.index for draw in batch[rank_slice(size, rank, world_size)]]
                for batch in islice(BatchStream(sampler, size).from_step(start), steps - start)
            ]
            for rank in range(world_size)
        ]
        assert all(len(part) == size // world_size for share in shares for part in share)
        shown = [n for step in zip(*shares, strict=True) for part in step for n in part]
        assert shown == order[start * size : steps * size]


@pytest.mark.parametrize("settings", CONFIGS)
def test_with_groups_a_resumed_stream_continues_where_it_was(settings):
    sampler, groups = settings.build(TAIL, 2), np.arange(120) % 5 == 0
    whole = list(islice(BatchStream(sampler, 4, groups).from_step(0), 100))
    places = [(draw.epoch, draw.position) for batch in whole for draw in batch]
    assert len(set(places)) == len(places)
    for start in (1, 29, 63):
        again = islice(BatchStream(sampler, 4, groups).from_step(start), 100 - start)
        assert list(again) == whole[start:]
