import math

import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

from hyperfocal.models import AnchorGenerator
from hyperfocal.types import ConfigError

STRIDES = (8, 16, 32, 64, 128)
CPU = torch.device("cpu")


def test_sizes_and_ratios_are_the_papers() -> None:
    priors = AnchorGenerator.Config().build(STRIDES)((640, 640), CPU)
    w, h = (priors.boxes[:, 2:] - priors.boxes[:, :2]).unbind(1)
    sizes = (w * h).sqrt()
    expected = torch.tensor([32 * 2**level * 2 ** (i / 3) for level in range(5) for i in range(3)])
    apart = (sizes[:, None] / expected - 1).abs()
    assert apart.amin(dim=1).max() < 1e-4
    assert apart.amin(dim=0).max() < 1e-4
    assert sizes.max().item() == pytest.approx(813, abs=0.5)
    assert {round(r, 4) for r in (h / w).tolist()} == {0.5, 1.0, 2.0}


@pytest.mark.parametrize(("hw", "count"), [((600, 1000), 113_193), ((800, 1333), 200_700)])
def test_number_of_anchors(hw: tuple[int, int], count: int) -> None:
    assert len(AnchorGenerator(STRIDES)(hw, CPU).boxes) == count


@pytest.mark.parametrize("hw", [(800, 1344), (96, 160), (480, 640), (32, 32)])
def test_torchvision_style_is_torchvisions(hw: tuple[int, int]) -> None:
    features = [torch.zeros(1, 1, math.ceil(hw[0] / s), math.ceil(hw[1] / s)) for s in STRIDES]
    expected = _default_anchorgen()(ImageList(torch.zeros(1, 3, *hw), [hw]), features)[0]
    priors = AnchorGenerator(STRIDES, style="torchvision")(hw, CPU)
    assert torch.equal(priors.boxes, expected)


def test_order_is_level_row_column_anchor() -> None:
    generator = AnchorGenerator((8, 16), base_scales=(2.0,), scales_per_octave=1, ratios=(1.0,))
    priors = generator((16, 24), CPU)
    assert priors.level_sizes == (6, 2)
    assert priors.centers.tolist() == [
        *([x, y] for y in (0, 8) for x in (0, 8, 16)),
        *([x, 0] for x in (0, 16)),
    ]
    assert priors.strides.tolist() == [8] * 6 + [16] * 2


def test_center_offset_moves_by_a_part_of_the_stride() -> None:
    plain = AnchorGenerator((8, 16))((32, 32), CPU)
    moved = AnchorGenerator((8, 16), center_offset=0.5)((32, 32), CPU)
    torch.testing.assert_close(
        moved.centers - plain.centers, (plain.strides / 2)[:, None].expand(-1, 2)
    )


@pytest.mark.parametrize("scales", [1, 2, 3, 4])
@pytest.mark.parametrize("ratios", [(1.0,), (0.5, 1.0, 2.0)])
def test_any_number_per_location(scales: int, ratios: tuple[float, ...]) -> None:
    config = AnchorGenerator.Config(scales_per_octave=scales, ratios=ratios)
    priors = config.build((8,))((16, 16), CPU)
    assert len(priors.boxes) == 4 * config.per_location == 4 * scales * len(ratios)


def test_two_base_scales() -> None:
    config = AnchorGenerator.Config(base_scales=(6.0, 8.0), scales_per_octave=1, ratios=(1.0,))
    boxes = config.build((8,))((8, 8), CPU).boxes
    assert (boxes[:, 2] - boxes[:, 0]).tolist() == [48, 64]


def test_the_same_size_isnt_computed_twice_and_memory_stays_bounded() -> None:
    generator = AnchorGenerator((8,))
    first = generator((64, 64), CPU)
    assert generator((64, 64), CPU) is first
    for i in range(generator.CACHED):
        generator((64, 96 + i), CPU)
    assert generator((64, 64), CPU) is not first


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"ratios = \(\)"):
        AnchorGenerator.Config(ratios=())
    with pytest.raises(ConfigError, match="scales_per_octave = 0"):
        AnchorGenerator.Config(scales_per_octave=0)
