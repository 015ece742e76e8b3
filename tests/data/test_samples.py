from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hyperfocal.data import TransformConfig, collate, load_sample, prepare_image, read_annotations
from hyperfocal.types import DataError, Sample, Target


def sample(height: int, width: int, identity: int = 0) -> Sample:
    image = torch.full((3, height, width), 7, dtype=torch.uint8)
    target = Target(torch.ones(identity, 4), torch.zeros(identity, dtype=torch.int64))
    return Sample(image, target, identity, (2 * height, 2 * width))


def test_loading_leaves_crowds_out(coco):
    third = read_annotations(coco.write(), coco.images).images[2]
    found = load_sample(third)
    assert found.image.shape == (3, 80, 100)
    assert found.original_hw == (80, 100)
    assert found.image_id == 3
    assert found.target.boxes.tolist() == [[50.5, 5.25, 60.5, 15.25]]
    assert found.target.labels.tolist() == [1]
    assert third.crowd.sum() == 1  # still there for evaluation


def test_a_missing_image_names_id_and_file(coco):
    first = read_annotations(coco.write(), coco.images).images[0]
    first.path.unlink()
    with pytest.raises(DataError, match=r"image id 1: .*1\.jpg: no such image file"):
        load_sample(first)


def test_collate_pads_at_the_right_and_the_bottom():
    batch = collate([sample(10, 20, 1), sample(33, 5, 2)], divisor=8)
    assert batch.images.shape == (2, 3, 40, 24)
    assert batch.valid_hw.tolist() == [[10, 20], [33, 5]]
    assert batch.original_hw.tolist() == [[20, 40], [66, 10]]
    assert batch.image_ids == (1, 2)
    assert [len(target.labels) for target in batch.targets] == [1, 2]
    assert int(batch.images.sum()) == 7 * 3 * (10 * 20 + 33 * 5)
    assert (batch.images[0, :, :10, :20] == 7).all()
    assert (batch.images[1, :, :33, :5] == 7).all()


@pytest.mark.parametrize(
    ("min_hw", "hw"), [((0, 0), (32, 32)), ((33, 0), (64, 32)), ((5, 70), (32, 96))]
)
def test_collate_reaches_a_given_size(min_hw, hw):
    assert collate([sample(10, 20)], 32, min_hw).images.shape[-2:] == hw


def test_collate_keeps_floats():
    one = sample(4, 4)
    floats = Sample(one.image / 255, one.target, 0, (4, 4))
    assert collate([floats, floats]).images.dtype == torch.float32


def test_images_of_all_modes_are_prepared_alike(tmp_path, noise_image):
    pixels = noise_image(30, 40)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    settings = TransformConfig(short=60)
    expected = prepare_image(pixels, settings)
    assert expected.image.shape == (3, 60, 80)
    assert expected.original_hw == (30, 40)
    assert len(expected.target.boxes) == 0
    for same in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
        pixels.astype(np.float32) / 255,
    ):
        assert torch.equal(prepare_image(same, settings).image, expected.image)
    with pytest.raises(DataError, match=r"b\.png: no such image file"):
        prepare_image(tmp_path / "b.png", settings)
