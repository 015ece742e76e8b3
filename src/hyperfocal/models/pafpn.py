"""PAFPN, YOLOX's neck: a top-down path, then a bottom-up path, of cross-stage partial blocks.

(Liu et al., "Path Aggregation Network", CVPR 2018; Ge et al., "YOLOX", 2021.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperfocal.models.csp import ConvNormAct, CSPLayer, spatial_conv
from hyperfocal.models.roles import Neck, NeckConfig
from hyperfocal.types import ConfigError


class PAFPN(Neck):
    """Levels of one width at strides 8, 16 and 32.

    The top-down path joins each map with the upsampled coarser one, the bottom-up path with the
    finer one; a 1x1 convolution brings each level to the common width (the first layer of the
    authors' head).

    Args:
        in_channels: channels of C3, C4, C5.
        channels, depth, depthwise: see `Config`.
    """

    strides = (8, 16, 32)

    @dataclass(frozen=True)
    class Config(NeckConfig):
        """Settings of `PAFPN`."""

        kind: ClassVar[str] = "pafpn"

        channels: int | None = None
        """Channels of each level; none: those of the backbone's map at stride 8, as in YOLOX."""
        depth: int = 1
        """Bottlenecks of each block. YOLOX's sizes: 1 up to s, m 2, l 3, x 4."""
        depthwise: bool = False
        """Depthwise separable 3x3 convolutions (YOLOX's nano)."""

        def __post_init__(self) -> None:
            self._require(self.channels is None or self.channels >= 1, "channels", "at least 1")
            self._require(self.depth >= 1, "depth", "at least 1")

        @property
        def strides(self) -> tuple[int, ...]:
            """8, 16, 32."""
            return PAFPN.strides

        def build(self, in_channels: tuple[int, ...]) -> PAFPN:
            """The neck for maps C3, C4, C5 with these channels."""
            channels = in_channels[0] if self.channels is None else self.channels
            return PAFPN(in_channels, **self.arguments(channels=channels))

    def __init__(
        self,
        in_channels: tuple[int, ...],
        channels: int,
        depth: int = 1,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        if len(in_channels) != len(self.strides):
            raise ConfigError(
                f"pafpn needs the backbone's maps at strides 8, 16 and 32, but it has "
                f"{len(in_channels)} maps"
            )
        c3, c4, c5 = in_channels
        self.channels = channels

        def block(before: int, after: int) -> CSPLayer:
            return CSPLayer(before, after, depth, residual=False, depthwise=depthwise)

        self.lateral = nn.ModuleList([ConvNormAct(c5, c4, 1), ConvNormAct(c4, c3, 1)])
        self.top_down = nn.ModuleList([block(2 * c4, c4), block(2 * c3, c3)])
        self.down = nn.ModuleList(spatial_conv(c, c, 2, depthwise) for c in (c3, c4))
        self.bottom_up = nn.ModuleList([block(2 * c3, c4), block(2 * c4, c5)])
        self.output = nn.ModuleList(ConvNormAct(c, channels, 1) for c in in_channels)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """P3, P4, P5 ``(B, channels, H/s, W/s)`` from C3, C4, C5."""
        level, laterals = maps[-1], []
        for lateral, block, finer in zip(
            self.lateral, self.top_down, (maps[1], maps[0]), strict=True
        ):
            laterals.append(lateral(level))
            upsampled = F.interpolate(laterals[-1], size=finer.shape[-2:])
            level = block(torch.cat((upsampled, finer), dim=1))
        levels = [level]
        for down, block, lateral_map in zip(
            self.down, self.bottom_up, reversed(laterals), strict=True
        ):
            level = block(torch.cat((down(level), lateral_map), dim=1))
            levels.append(level)
        return tuple(conv(level) for conv, level in zip(self.output, levels, strict=True))
