from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from hyperfocal import config
from hyperfocal.data.transforms import (
    MIN_VISIBLE,
    TransformConfig,
    make_plan,
    resized_hw,
    transform,
)
from hyperfocal.types import ConfigError, Sample, Target

RNG = np.random.default_rng


def sample(image: torch.Tensor, boxes: list[list[float]]) -> Sample:
    target = Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes))
    )
    return Sample(image, target, 5, (image.shape[-2], image.shape[-1]))


def marked(height: int, width: int, box: tuple[int, int, int, int]) -> Sample:
    """A black image with one white box, annotated."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = 255
    return sample(image, [list(map(float, box))])


def white_box(image: torch.Tensor) -> list[float]:
    """Extent of the pixels that are more white than not."""
    ys, xs = torch.nonzero(image.float().mean(dim=0) > image.max() / 2, as_tuple=True)
    return [float(xs.min()), float(ys.min()), float(xs.max()) + 1, float(ys.max()) + 1]


def test_size_follows_the_short_side_up_to_the_cap():
    usual = TransformConfig(short=800, long=1333)
    assert resized_hw((480, 640), 800, usual) == (800, 1067)
    assert resized_hw((640, 480), 800, usual) == (1067, 800)
    assert resized_hw((400, 1000), 800, usual) == (533, 1333)
    assert resized_hw((1, 1), 800, usual) == (800, 800)
    assert resized_hw((1, 20_000), 800, usual) == (1, 1333)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.integers(1, 1000),
    st.integers(1, 1500),
    st.sampled_from(["antialias", "bilinear_float"]),
)
def test_size_respects_its_bounds(hw, short, long, resize):
    height, width = resized_hw(hw, short, TransformConfig(short=short, long=long, resize=resize))
    assert min(height, width) >= 1
    assert min(height, width) <= short
    assert max(height, width) <= long
    # One of the limits is reached, but for rounding.
    assert min(height, width) >= short - 1 or max(height, width) >= long - 1


@pytest.mark.parametrize("resize", ["antialias", "bilinear_float"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("short", [40, 96, 160])
def test_boxes_stay_on_their_object(resize, flip, short):
    before = marked(96, 128, (16, 8, 64, 40))
    after = transform(before, TransformConfig(short=short, resize=resize, flip=flip), RNG(0))
    assert after.image.shape[-2:] == (short, round(short * 128 / 96))
    box = after.target.boxes[0].tolist()
    np.testing.assert_allclose(white_box(after.image), box, atol=1)
    scale = short / 96
    width = (after.image.shape[-1] - 64 * after.image.shape[-1] / 128) if flip else 16 * scale
    np.testing.assert_allclose(box[0], width, atol=0.5)
    assert (after.image_id, after.original_hw) == (5, (96, 128))


def test_uint8_stays_uint8_and_parity_mode_gives_unit_floats():
    before = marked(30, 40, (5, 5, 20, 20))
    assert transform(before, TransformConfig(short=60), RNG(0)).image.dtype == torch.uint8
    found = transform(before, TransformConfig(short=60, resize="bilinear_float"), RNG(0)).image
    assert found.dtype == torch.float32
    assert (found.min(), found.max()) == (0, 1)


def test_flipping_twice_is_nothing():
    image = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    before = sample(image, [[1.5, 2, 30, 40], [0, 0, 64, 48]])
    mirror = TransformConfig(short=48, flip=1.0)
    once = transform(before, mirror, RNG(0))
    assert torch.equal(once.image, image.flip(-1))
    twice = transform(once, mirror, RNG(1))
    assert torch.equal(twice.image, image)
    assert torch.equal(twice.target.boxes, before.target.boxes)


def test_resizing_is_exact_for_boxes_and_can_be_undone():
    before = sample(torch.zeros(3, 333, 517, dtype=torch.uint8), [[10.3, 20.7, 400.1, 300.9]])
    there = transform(before, TransformConfig(short=781), RNG(0))
    height, width = there.image.shape[-2:]
    back = there.target.boxes * torch.tensor([517 / width, 333 / height] * 2)
    torch.testing.assert_close(back, before.target.boxes, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("hw", [(480, 640), (641, 427), (333, 500), (100, 900), (37, 1)])
def test_parity_mode_is_torchvisions(hw):
    image = torch.randint(0, 256, (3, *hw), dtype=torch.uint8)
    boxes = [[0.0, 0.0, hw[1] / 2, hw[0] / 3]]
    theirs = GeneralizedRCNNTransform(160, 266, [0.0] * 3, [1.0] * 3, size_divisible=1)
    target = {"boxes": torch.tensor(boxes), "labels": torch.tensor([0])}
    images, targets = theirs([image.float() / 255], [target])
    parity = TransformConfig(short=160, long=266, resize="bilinear_float")
    ours = transform(sample(image, boxes), parity, RNG(0))
    torch.testing.assert_close(ours.image, images.tensors[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.target.boxes, targets[0]["boxes"], rtol=1e-6, atol=1e-4)


def test_scale_jitter_draws_every_size():
    jitter = TransformConfig(short=(32, 48, 64))
    before = marked(20, 20, (5, 5, 10, 10))
    sizes = {transform(before, jitter, RNG(n)).image.shape[-1] for n in range(40)}
    assert sizes == {32, 48, 64}


@pytest.mark.parametrize("zoom", [(2.0, 2.0), (0.5, 0.5), (0.3, 3.0)])
def test_zoom_keeps_the_size_and_the_box_on_its_object(zoom):
    before = marked(120, 160, (60, 45, 100, 75))
    seen = 0
    for seed in range(30):
        after = transform(before, TransformConfig(short=120, zoom=zoom), RNG(seed))
        assert after.image.shape[-2:] == (120, 160)
        if len(after.target.boxes):
            seen += 1
            np.testing.assert_allclose(
                white_box(after.image), after.target.boxes[0].tolist(), atol=1.5
            )
        else:  # little of the object is left
            white = (after.image[0] > 127).sum()
            scale = (40 * 30) * max(zoom) ** 2
            assert white <= (MIN_VISIBLE + 0.1) * scale
    assert seen > 10


def test_zoom_leaves_out_boxes_that_are_mostly_cut_away():
    before = sample(torch.zeros(3, 100, 100, dtype=torch.uint8), [[0, 0, 100, 100], [0, 0, 10, 10]])
    numbers = set()
    for seed in range(60):
        after = transform(before, TransformConfig(short=100, zoom=(2.0, 2.0)), RNG(seed))
        # A quarter of the first box is left, wherever the crop lies.
        assert after.target.labels[0] == 0
        assert torch.equal(after.target.boxes[0], torch.tensor([0.0, 0, 100, 100]))
        boxes = after.target.boxes
        numbers.add(len(boxes))
        assert bool((boxes >= 0).all())
        assert bool((boxes <= 100).all())
        # At twice the size: what is left of the second box is at least that part of it.
        assert all(area >= MIN_VISIBLE * 20 * 20 - 1 for area in areas(boxes[1:]))
    assert numbers == {1, 2}


def areas(boxes: torch.Tensor) -> list[float]:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).tolist()


def test_boxes_without_area_are_dropped():
    boxes = [[5.0, 5, 5, 9], [5, 5, 9, 9], [9, 9, 5, 5], [5, 5, 5.001, 9]]
    after = transform(
        sample(torch.zeros(3, 16, 16, dtype=torch.uint8), boxes), TransformConfig(short=16), RNG(0)
    )
    assert after.target.labels.tolist() == [1]


def test_small_boxes_are_dropped_by_their_size_before_the_resize():
    picture = torch.zeros(3, 16, 16, dtype=torch.uint8)
    before = sample(picture, [[0.0, 0, 0.9, 9], [0, 0, 1, 9], [0, 0, 9, 0.5]])
    for short in (8, 64):
        after = transform(before, TransformConfig(short=short, min_box=1.0), RNG(0))
        assert after.target.labels.tolist() == [1]


def test_images_without_boxes():
    everything = TransformConfig(short=(20, 30), flip=0.5, zoom=(0.5, 2.0), hue=0.1)
    after = transform(sample(torch.zeros(3, 16, 16, dtype=torch.uint8), []), everything, RNG(0))
    assert after.target.boxes.shape == (0, 4)
    assert after.target.boxes.dtype == torch.float32


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("resize", ["antialias", "bilinear_float"])
def test_photometric_changes_touch_pixels_within_range_and_no_box(name, resize):
    image = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    before = sample(image, [[1, 2, 10, 12]])
    plain = transform(before, TransformConfig(short=24, resize=resize), RNG(0))
    varied = TransformConfig(short=24, resize=resize, **{name: 0.5})
    found = [transform(before, varied, RNG(seed)) for seed in range(4)]
    for after in found:
        assert after.image.dtype == plain.image.dtype
        assert not torch.equal(after.image, plain.image)
        assert torch.equal(after.target.boxes, before.target.boxes)
        assert after.image.min() >= 0
        assert after.image.max() <= (1 if resize == "bilinear_float" else 255)
    assert not torch.equal(found[0].image, found[1].image)


def test_the_same_generator_gives_the_same_sample():
    colors = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
    everything = TransformConfig(short=(20, 30), flip=0.5, zoom=(0.5, 2.0), **colors)
    before = sample(torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8), [[1, 2, 10, 12]])
    one, same, other = (transform(before, everything, RNG(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.target.boxes, same.target.boxes)
    assert one.image.shape != other.image.shape or not torch.equal(one.image, other.image)


def test_the_planned_size_is_the_size():
    everything = TransformConfig(short=(20, 30, 41), long=50, flip=0.5, zoom=(0.5, 2.0), hue=0.1)
    for seed in range(20):
        hw = (int(RNG(seed).integers(1, 90)), int(RNG(seed + 99).integers(1, 90)))
        before = sample(torch.zeros(3, *hw, dtype=torch.uint8), [])
        plan = make_plan(hw, everything, RNG(seed))
        assert transform(before, everything, RNG(seed)).image.shape[-2:] == plan.hw


def test_settings_without_randomness_draw_nothing():
    rng = RNG(0)
    make_plan((10, 20), TransformConfig(short=40), rng)
    assert rng.bit_generator.state == RNG(0).bit_generator.state


def test_is_random():
    assert not TransformConfig().is_random
    assert not TransformConfig(short=(600,)).is_random
    for change in (
        {"short": (600, 800)},
        {"flip": 0.5},
        {"zoom": (1.0, 2.0)},
        {"hue": 0.1},
        {"brightness": 0.1},
    ):
        assert TransformConfig(**change).is_random


@pytest.mark.parametrize(
    "wrong",
    [
        {"short": 0},
        {"short": ()},
        {"short": (600, 0)},
        {"long": 0},
        {"flip": 1.1},
        {"zoom": (2.0, 1.0)},
        {"zoom": (0.0, 1.0)},
        {"brightness": 1.5},
        {"hue": 0.6},
        {"saturation": -0.1},
    ],
)
def test_impossible_settings(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=f"TransformConfig: {name} = "):
        TransformConfig(**wrong)


def test_settings_survive_json_and_the_command_line():
    for short in (600, (640, 672)):
        made = TransformConfig(short=short, zoom=(0.5, 2.0))
        assert config.load(TransformConfig, config.dump(made)) == made
    found = config.override(TransformConfig(), ["--short", "640", "672", "--flip", "0.5"], "test")
    assert found == TransformConfig(short=(640, 672), flip=0.5)
    assert config.override(TransformConfig(), ["--short", "320"], "test").shorts == (320,)
