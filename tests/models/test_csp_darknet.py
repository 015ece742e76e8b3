"""CSPDarknet and PAFPN: shapes, sizes, single locations, and other detectors built on them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hyperfocal.models import FPN, PAFPN, Backbone, CSPDarknet, RetinaNet
from hyperfocal.models.csp import BatchNorm, CSPLayer, SpatialPyramidPooling
from hyperfocal.models.roles import BackboneConfig, NeckConfig
from hyperfocal.types import ConfigError

SMALL = Backbone.Config("test_resnet", pretrained=False)
NANO = CSPDarknet.Config(size="nano")


@pytest.mark.parametrize(
    ("size", "channels", "depth", "parameters"),
    # In millions, of a detector with 80 categories: table 2 and 3 of the paper. Its head has
    # 1.88 at width 0.5: towers of 3x3 convolutions on three levels.
    [("s", (128, 256, 512), 1, 9.0), ("m", (192, 384, 768), 2, 25.3)],
)
def test_sizes_are_those_of_the_paper(
    size: str, channels: tuple[int, ...], depth: int, parameters: float
) -> None:
    with torch.device("meta"):
        backbone = CSPDarknet.Config(size=size).build()
        neck = PAFPN.Config(depth=depth).build(backbone.channels)
    assert backbone.channels == channels
    width = channels[0]
    tower = 4 * (9 * width * width + 2 * width)
    head = 3 * (tower + (width + 1) * 85)
    total = sum(p.numel() for part in (backbone, neck) for p in part.parameters()) + head
    assert total / 1e6 == pytest.approx(parameters, abs=0.06)


@pytest.mark.parametrize(
    ("backbone", "neck"),
    [(NANO, PAFPN.Config(channels=32, depthwise=True)), (SMALL, PAFPN.Config(channels=32))],
    ids=["csp_darknet", "timm"],
)
def test_levels_have_their_strides_and_one_width(
    backbone: BackboneConfig, neck: NeckConfig
) -> None:
    network = backbone.build().eval()
    pyramid = neck.build(network.channels).eval()
    assert pyramid.strides == neck.strides == (8, 16, 32)
    maps = network(torch.rand(1, 3, 96, 64))
    assert [m.shape[1] for m in maps] == list(network.channels)
    levels = pyramid(maps)
    assert [tuple(level.shape) for level in levels] == [
        (1, 32, 96 // s, 64 // s) for s in pyramid.strides
    ]


@pytest.mark.parametrize("neck", [PAFPN.Config(depthwise=True), FPN.Config(channels=32)])
def test_retinanet_learns_on_it(neck: NeckConfig) -> None:
    torch.manual_seed(0)
    model = RetinaNet(num_classes=2, backbone=NANO, neck=neck)
    model.resize = None
    images = [torch.rand(3, 64, 64)]
    targets = [{"boxes": torch.tensor([[8.0, 8, 50, 60]]), "labels": torch.tensor([1])}]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    totals = []
    for _ in range(20):
        total = sum(model(images, targets).values())
        optimizer.zero_grad()
        total.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        totals.append(float(total.detach()))
    assert max(totals[-3:]) < totals[0]


def test_pixels_arent_normalised() -> None:
    model = RetinaNet(num_classes=2, backbone=NANO)
    torch.testing.assert_close(model.pixels.mean, torch.zeros(3))
    torch.testing.assert_close(model.pixels.std, torch.ones(3))


def test_a_single_location_is_normalised_with_running_statistics() -> None:
    norm = BatchNorm(3)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    single = torch.randn(1, 3, 1, 1)
    before = norm.running_mean.clone()
    torch.testing.assert_close(norm.train()(single), norm.eval()(single))
    assert torch.equal(norm.running_mean, before)
    several = torch.randn(2, 3, 1, 1)
    assert not torch.allclose(norm.train()(several), norm.eval()(several))


def test_pooling_has_windows_of_5_9_and_13() -> None:
    block = SpatialPyramidPooling(8).eval()
    reduced = block.reduce(x := torch.randn(1, 8, 16, 20))
    windows = [nn.functional.max_pool2d(reduced, k, 1, k // 2) for k in (5, 9, 13)]
    torch.testing.assert_close(block(x), block.join(torch.cat([reduced, *windows], dim=1)))


def test_half_of_a_layer_bypasses_the_bottlenecks() -> None:
    layer = CSPLayer(8, 8, depth=2).eval()
    x = torch.randn(1, 8, 4, 4)
    before = layer(x)
    for block in layer.blocks:
        nn.init.zeros_(block[-1][1].weight)  # then a residual block is the identity
    assert not torch.allclose(layer(x), before)
    identity = layer.join(torch.cat((layer.main(x), layer.bypass(x)), dim=1))
    torch.testing.assert_close(layer(x), identity)


def test_maps_of_other_strides_are_refused() -> None:
    with pytest.raises(ConfigError, match="maps at strides 8, 16 and 32, but it has 4"):
        PAFPN.Config().build((8, 16, 32, 64))
