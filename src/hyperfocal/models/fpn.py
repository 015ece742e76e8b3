"""Feature pyramid: maps of equal width at strides from 4 or 8 on (Lin et al., CVPR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from hyperfocal.models.backbone import FirstStride, strides_from
from hyperfocal.models.layers import StridedConv
from hyperfocal.models.roles import Neck, NeckConfig
from hyperfocal.types import ConfigError

ExtraSource = Literal["c5", "p5", "c5_lateral", "pool"]


class FPN(Neck):
    """(P2,) P3, P4, P5 by lateral and top-down connections, then coarser levels.

    ``P_l = conv3x3(conv1x1(C_l) + upsample(lateral sum of level l + 1))``, nearest upsampling;
    ``P6 = conv3x3/2(source)``, ``P7 = conv3x3/2(ReLU(P6))`` (focal-loss paper, section 4), or with
    ``pool`` every second location of the level before (Faster R-CNN's P6).

    Args:
        in_channels: channels of (C2,) C3, C4, C5.
        channels, num_levels, extra_source, relu, first_stride, norm: see `Config`.

    Attributes:
        strides: stride of each level.
    """

    @dataclass(frozen=True)
    class Config(NeckConfig):
        """Settings of `FPN`."""

        channels: int = 256
        """Channels of each level."""
        num_levels: int = 5
        """Number of levels; 5: from P3 (stride 8) to P7 (stride 128), or from P2 to P6."""
        extra_source: ExtraSource = "c5"
        """Input of P6: the backbone's last map (c5), the pyramid's (p5), or c5 after its 1x1
        convolution (c5_lateral); pool: P6 is every second location of P5."""
        relu: bool = True
        """Apply ReLU to P6 as input of P7."""
        first_stride: FirstStride = 8
        """Stride of the first level: 8 (P3), or 4 (P2) for small objects and Faster R-CNN."""
        norm: Literal["none", "bn"] = "none"
        """Norm after the lateral and output convolutions: none, or batch norm (bn)."""

        kind: ClassVar[str] = "fpn"

        def __post_init__(self) -> None:
            self._require(self.channels >= 1, "channels", "at least 1")
            least = len(strides_from(self.first_stride))
            self._require(least <= self.num_levels <= 7, "num_levels", f"between {least} and 7")

        @property
        def strides(self) -> tuple[int, ...]:
            """Strides of the levels, each twice the previous one."""
            return tuple(self.first_stride * 2**n for n in range(self.num_levels))

        def build(self, in_channels: tuple[int, ...]) -> FPN:
            """The pyramid for maps with these channels.

            Raises:
                ConfigError: the backbone has another number of maps.
            """
            expected = strides_from(self.first_stride)
            if len(in_channels) != len(expected):
                raise ConfigError(
                    f"the backbone has {len(in_channels)} maps, but a pyramid from stride "
                    f"{self.first_stride} needs those of strides {', '.join(map(str, expected))}"
                )
            return FPN(in_channels, **self.arguments())

    def __init__(
        self,
        in_channels: tuple[int, ...],
        channels: int = 256,
        num_levels: int = 5,
        extra_source: ExtraSource = "c5",
        relu: bool = True,
        first_stride: FirstStride = 8,
        norm: Literal["none", "bn"] = "none",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.extra_source = extra_source
        self.relu = relu
        self.strides = tuple(first_stride * 2**n for n in range(num_levels))
        self.lateral = nn.ModuleList(_conv(c, channels, 1, norm) for c in in_channels)
        self.output = nn.ModuleList(_conv(channels, channels, 3, norm) for _ in in_channels)
        first = in_channels[-1] if extra_source == "c5" else channels
        self.pooled = num_levels - len(in_channels) if extra_source == "pool" else 0
        extra = range(num_levels - len(in_channels) - self.pooled)
        self.extra = nn.ModuleList(
            StridedConv(channels if i else first, channels, 3, stride=2, padding=1) for i in extra
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Caffe2's Xavier initialisation, U(±sqrt(3 / fan_in)), as in the paper's code.
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The levels ``(B, channels, H/s, W/s)`` from (C2,) C3, C4, C5."""
        laterals = [conv(c) for conv, c in zip(self.lateral, maps, strict=True)]
        sums = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            sums.append(lateral + F.interpolate(sums[-1], size=lateral.shape[-2:]))
        levels = [conv(s) for conv, s in zip(self.output, reversed(sums), strict=True)]
        for _ in range(self.pooled):
            levels.append(levels[-1][:, :, ::2, ::2])
        sources = {"c5": maps[-1], "p5": levels[-1], "c5_lateral": laterals[-1]}
        source = sources.get(self.extra_source, levels[-1])
        for i, conv in enumerate(self.extra):
            source = conv(F.relu(source) if self.relu and i else source)
            levels.append(source)
        return tuple(levels)


def _conv(in_channels: int, channels: int, kernel: int, norm: str) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=norm == "none")
    return conv if norm == "none" else nn.Sequential(conv, nn.BatchNorm2d(channels))
