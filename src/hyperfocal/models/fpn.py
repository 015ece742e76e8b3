"""Feature pyramid: maps of one width at strides 8, 16, 32 and coarser (Lin et al., CVPR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from hyperfocal.models.backbone import STRIDES
from hyperfocal.models.layers import StridedConv
from hyperfocal.models.roles import Neck, NeckConfig

ExtraSource = Literal["c5", "p5", "c5_lateral"]


class FPN(Neck):
    """P3, P4, P5 by lateral and top-down connections, then P6, P7, ... by strided convolutions.

    ``P_l = conv3x3(conv1x1(C_l) + upsample(lateral sum of level l + 1))``, nearest upsampling;
    ``P6 = conv3x3/2(source)``, ``P7 = conv3x3/2(ReLU(P6))`` (focal-loss paper, section 4).

    Args:
        in_channels: channels of C3, C4, C5.
        channels: channels of each level.
        num_levels: number of levels, starting at P3.
        extra_source: input of P6.
        relu: apply ReLU to the input of extra levels after P6.

    Attributes:
        strides: stride of each level.
    """

    @dataclass(frozen=True)
    class Config(NeckConfig):
        """Settings of `FPN`."""

        channels: int = 256
        """Channels of each level."""
        num_levels: int = 5
        """Number of levels, starting at P3 (stride 8); 5: up to P7 (stride 128)."""
        extra_source: ExtraSource = "c5"
        """Input of P6: the backbone's last map (c5), the pyramid's (p5), or c5 after its 1x1
        convolution (c5_lateral)."""
        relu: bool = True
        """Apply ReLU to P6 as input of P7."""

        kind: ClassVar[str] = "fpn"

        def __post_init__(self) -> None:
            self._require(self.channels >= 1, "channels", "at least 1")
            self._require(3 <= self.num_levels <= 7, "num_levels", "between 3 and 7")

        @property
        def strides(self) -> tuple[int, ...]:
            """Strides of the levels, each twice the previous one."""
            return tuple(STRIDES[0] * 2**n for n in range(self.num_levels))

        def build(self, in_channels: tuple[int, ...]) -> FPN:
            """The pyramid for maps with these channels."""
            return FPN(in_channels, self.channels, self.num_levels, self.extra_source, self.relu)

    def __init__(
        self,
        in_channels: tuple[int, ...],
        channels: int = 256,
        num_levels: int = 5,
        extra_source: ExtraSource = "c5",
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.extra_source = extra_source
        self.relu = relu
        extra = range(num_levels - len(STRIDES))
        self.strides = STRIDES + tuple(STRIDES[-1] * 2 ** (i + 1) for i in extra)
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in STRIDES)
        first = in_channels[-1] if extra_source == "c5" else channels
        self.extra = nn.ModuleList(
            StridedConv(channels if i else first, channels, 3, stride=2, padding=1) for i in extra
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Caffe2's Xavier initialisation, U(±sqrt(3 / fan_in)), as in the paper's code.
                nn.init.kaiming_uniform_(module.weight, a=1)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """P3, P4, ... ``(B, channels, H/s, W/s)`` from C3, C4, C5."""
        laterals = [conv(c) for conv, c in zip(self.lateral, maps, strict=True)]
        sums = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            sums.append(lateral + F.interpolate(sums[-1], size=lateral.shape[-2:]))
        levels = [conv(s) for conv, s in zip(self.output, reversed(sums), strict=True)]
        source = {"c5": maps[-1], "p5": levels[-1], "c5_lateral": laterals[-1]}[self.extra_source]
        for i, conv in enumerate(self.extra):
            source = conv(F.relu(source) if self.relu and i else source)
            levels.append(source)
        return tuple(levels)
