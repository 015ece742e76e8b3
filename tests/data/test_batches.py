from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.data.batches import BatchStream, Sampled, rank_slice
from hyperfocal.data.samplers import PlainSampler, RepeatFactorSampler
from hyperfocal.types import ConfigError


def take(stream: BatchStream, count: int, start: int = 0) -> list[tuple[Sampled, ...]]:
    return list(islice(stream.from_step(start), count))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 12), st.integers(0, 2**32), st.booleans(), st.integers(1, 60)
)
def test_nothing_is_dropped_and_nothing_repeated(num_images, batch_size, seed, grouped, steps):
    groups = np.random.default_rng(seed).random(num_images) < 0.3 if grouped else None
    stream = BatchStream(PlainSampler(num_images, seed), batch_size, groups)
    shown = [drawn for batch in take(stream, steps) for drawn in batch]
    assert len(shown) == steps * batch_size
    places = {(drawn.epoch, drawn.position) for drawn in shown}
    assert len(places) == len(shown)
    last = max(places)
    # All that was drawn up to the last place shown, less what waits for its batch to fill.
    drawn_so_far = last[0] * num_images + last[1] + 1
    assert 0 <= drawn_so_far - len(shown) <= 2 * (batch_size - 1)
    sampler = PlainSampler(num_images, seed)
    for drawn in shown:
        assert sampler.epoch_indices(drawn.epoch)[drawn.position] == drawn.index


def test_batches_keep_to_one_group():
    groups = np.arange(20) % 3 == 0
    for batch in take(BatchStream(PlainSampler(20, 0), 4, groups), 30):
        assert len({bool(groups[drawn.index]) for drawn in batch}) == 1


def test_without_groups_the_order_is_the_samplers():
    sampler = PlainSampler(7, 3)
    shown = [d.index for batch in take(BatchStream(sampler, 4), 7) for d in batch]
    assert shown == [n for epoch in range(4) for n in sampler.epoch_indices(epoch)]


@pytest.mark.parametrize("start", [1, 5, 40])
def test_a_stream_can_start_anywhere(start):
    factors = np.linspace(1, 3, 23)
    sampler = RepeatFactorSampler(factors, "stochastic", seed=4)
    stream = BatchStream(sampler, 4, np.arange(23) % 4 == 0)
    assert take(stream, 6, start) == take(stream, start + 6)[start:]


def test_a_batch_may_be_larger_than_the_dataset():
    (batch,) = take(BatchStream(PlainSampler(3, 0), 8), 1)
    assert sorted(drawn.index for drawn in batch[:6]) == [0, 0, 1, 1, 2, 2]


def test_an_empty_sampler_is_an_error_and_no_endless_loop():
    with pytest.raises(ConfigError, match="gives no images"):
        take(BatchStream(PlainSampler(0, 0), 1), 1)


def test_ranks_share_a_batch():
    batch = list(range(12))
    parts = [batch[rank_slice(12, rank, 3)] for rank in range(3)]
    assert [n for part in parts for n in part] == batch
    assert {len(part) for part in parts} == {4}
    parts = [batch[rank_slice(12, rank, 5)] for rank in range(5)]
    assert [n for part in parts for n in part] == batch
    assert {len(part) for part in parts} == {2, 3}
    with pytest.raises(ConfigError, match="batch_size = 12 doesn't give each of 13 processes"):
        rank_slice(12, 0, 13)
    with pytest.raises(ConfigError, match="batch_size = 0"):
        BatchStream(PlainSampler(3, 0), 0)


def test_augmentation_has_a_stream_of_its_own_per_draw():
    draws = [Sampled(0, epoch, position) for epoch in range(3) for position in range(3)]
    numbers = [drawn.rng(seed).random() for drawn in draws for seed in (0, 1)]
    numbers += [np.random.default_rng([seed, 0, 0, 1]).random() for seed in (0, 1)]  # samplers'
    assert len(set(numbers)) == len(numbers)
    assert Sampled(7, 1, 2).rng(0).random() == Sampled(9, 1, 2).rng(0).random()
