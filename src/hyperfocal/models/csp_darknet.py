"""CSPDarknet, YOLOX's backbone (Ge et al., "YOLOX: Exceeding YOLO Series in 2021")."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from hyperfocal.models.csp import ConvNormAct, CSPLayer, SpatialPyramidPooling, spatial_conv
from hyperfocal.models.roles import BackboneConfig, FeatureNetwork

Size = Literal["nano", "tiny", "s", "m", "l", "x"]
"""Size of YOLOX's networks."""


class Scale(NamedTuple):
    """Depth and width of a network, relative to size l.

    Attributes:
        depth: factor on the number of bottlenecks.
        width: factor on the number of channels.
        depthwise: whether 3x3 convolutions are depthwise separable.
    """

    depth: float
    width: float
    depthwise: bool = False

    @property
    def blocks(self) -> int:
        """Bottlenecks of a `CSPLayer` (3 for size l)."""
        return max(round(3 * self.depth), 1)


SCALES: dict[Size, Scale] = {
    "nano": Scale(0.33, 0.25, depthwise=True),
    "tiny": Scale(0.33, 0.375),
    "s": Scale(0.33, 0.5),
    "m": Scale(0.67, 0.75),
    "l": Scale(1.0, 1.0),
    "x": Scale(1.33, 1.25),
}
"""The authors' sizes."""


class CSPDarknet(FeatureNetwork):
    """A stem on 2x2 pixels, then four stages of a strided convolution and a `CSPLayer`.

    Its pixels are in [0, 255], not normalised, as in the authors' code. Weights are random.

    Args:
        scale: depth and width.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1 / 255, 1 / 255, 1 / 255)

    @dataclass(frozen=True)
    class Config(BackboneConfig):
        """Settings of `CSPDarknet`."""

        kind: ClassVar[str] = "csp_darknet"

        size: Size = "s"
        """YOLOX's size. Depth and width relative to l: nano 0.33 and 0.25 (with depthwise
        convolutions), tiny 0.33 and 0.375, s 0.33 and 0.5, m 0.67 and 0.75, x 1.33 and 1.25."""

        def offline(self) -> Self:
            """The same: it has no initial weights."""
            return self

        def build(self) -> CSPDarknet:
            """The backbone with random weights."""
            return CSPDarknet(SCALES[self.size])

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        first = int(64 * scale.width)
        widths = [first, 2 * first, 4 * first, 8 * first, 16 * first]
        self.channels = tuple(widths[2:])
        self.stem = ConvNormAct(12, first, 3)
        stages = []
        for n, (before, width) in enumerate(itertools.pairwise(widths)):
            last = n == 3
            depth = scale.blocks * (3 if n in (1, 2) else 1)
            layers: list[nn.Module] = [spatial_conv(before, width, 2, scale.depthwise)]
            if last:
                layers.append(SpatialPyramidPooling(width))
            layers.append(CSPLayer(width, width, depth, not last, scale.depthwise))
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """C3, C4 and C5 ``(B, C, H/s, W/s)`` of ``(B, 3, H, W)``; H and W are multiples of 32."""
        # Top left, bottom left, top right and bottom right pixel of each 2x2 square.
        corners = [images[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        level = self.stem(torch.cat(corners, dim=1))
        maps = []
        for stage in self.stages:
            level = stage(level)
            maps.append(level)
        return tuple(maps[1:])
