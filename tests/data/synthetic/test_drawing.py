"""Single synthetic images: their categories, boxes and backgrounds."""

import itertools

import numpy as np
import pytest

from hyperfocal.data.synthetic import drawing
from hyperfocal.data.synthetic.drawing import draw_image
from hyperfocal.data.synthetic.looks import FILLS, category_look


def test_any_two_categories_differ_in_two_of_shape_colour_and_fill():
    looks = [category_look(label) for label in range(60)]
    for one, other in itertools.combinations(looks, 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) <= 1


def test_every_colour_fill_and_shape_is_used_by_the_first_24():
    looks = [category_look(label) for label in range(24)]
    assert {look.fill for look in looks} == set(FILLS)
    assert len({look.colour for look in looks}) == 10
    assert len({look.shape for look in looks}) == 12


def test_objects_come_in_several_sizes_and_overlap():
    longer, overlapping = [], 0
    for seed in range(20):
        drawn = draw_image([0, 1, 2, 3, 4], 160, (16, 96), np.random.default_rng(seed))
        longer += (drawn.boxes[:, 2:] - drawn.boxes[:, :2]).max(axis=1).tolist()
        for one, other in itertools.combinations(drawn.boxes, 2):
            shared = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
            overlapping += bool((shared > 0).all())
    assert min(longer) >= 16 - 1e-6
    assert max(longer) <= 96 + 1e-6
    assert max(longer) / min(longer) > 3
    assert overlapping >= 10


@pytest.mark.parametrize("label", range(24))
def test_a_box_encloses_exactly_what_its_object_paints(label):
    # On a flat canvas of an impossible colour, all that changes is the object.
    look = category_look(label)
    points = drawing.SHAPES[look.shape] * 60 + 100
    canvas = np.full((200, 200, 3), 1000, dtype=np.float32)
    middle, rng = np.array([100.0, 100.0]), np.random.default_rng(label)
    drawing._paint(canvas, look, points, middle, np.eye(2) / 60, rng)
    ys, xs = np.nonzero((canvas != 1000).any(axis=2))
    painted = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    np.testing.assert_allclose(painted, box, atol=1.01)


def test_the_area_is_that_of_the_painted_pixels():
    drawn = draw_image([0], 160, (90, 90), np.random.default_rng(0))
    width, height = (drawn.boxes[:, 2:] - drawn.boxes[:, :2])[0]
    # Label 0 is a disc, stretched to an ellipse.
    assert drawn.area[0] == pytest.approx(np.pi / 4 * width * height, rel=0.02)


def test_backgrounds_are_textured():
    for seed in range(5):
        pixels = draw_image([], 160, (16, 96), np.random.default_rng(seed)).pixels
        # Every 20 px tile varies.
        tiles = pixels.astype(float).reshape(8, 20, 8, 20, 3).std(axis=(1, 3))
        assert tiles.min() > 1
