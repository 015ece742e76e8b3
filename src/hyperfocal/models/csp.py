"""Blocks of YOLOX's networks: convolutions with batch norm, and cross-stage partial blocks.

(Ge et al., "YOLOX: Exceeding YOLO Series in 2021"; Wang et al., "CSPNet", CVPR Workshops 2020.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperfocal.models.layers import StridedConv

EPS = 1e-3
"""Epsilon of the batch norms, as in the authors' code."""
MOMENTUM = 0.03
"""Momentum of their running statistics."""


class BatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with epsilon 1e-3 and momentum 0.03 that accepts a single location.

    One value per channel has no variance: in training mode, a map of one image with one location is
    normalised with the running statistics, which stay as they are.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS, momentum=MOMENTUM)

    def forward(self, input: Tensor) -> Tensor:  # named as in nn.BatchNorm2d
        """The normalised input."""
        if self.training and input.numel() == input.shape[1]:
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(input, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        output: Tensor = super().forward(input)
        return output


class ConvNormAct(nn.Sequential):
    """Convolution without bias, `BatchNorm` and SiLU; padded to keep the size at stride 1."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        make = nn.Conv2d if stride == 1 else StridedConv
        conv = make(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, BatchNorm(channels), nn.SiLU(inplace=True))


def spatial_conv(
    in_channels: int, channels: int, stride: int = 1, depthwise: bool = False
) -> nn.Sequential:
    """A 3x3 `ConvNormAct`; with ``depthwise``, one per channel followed by a 1x1 one."""
    if not depthwise:
        return ConvNormAct(in_channels, channels, 3, stride)
    return nn.Sequential(
        ConvNormAct(in_channels, in_channels, 3, stride, groups=in_channels),
        ConvNormAct(in_channels, channels, 1),
    )


class Bottleneck(nn.Sequential):
    """A 1x1 and a 3x3 convolution; with ``residual``, added to the input."""

    def __init__(self, channels: int, residual: bool, depthwise: bool) -> None:
        super().__init__(
            ConvNormAct(channels, channels, 1),
            spatial_conv(channels, channels, depthwise=depthwise),
        )
        self.residual = residual

    def forward(self, input: Tensor) -> Tensor:
        """Map of the input's shape."""
        output = input
        for layer in self:
            output = layer(output)
        return input + output if self.residual else output


class CSPLayer(nn.Module):
    """Cross-stage partial block: half of the channels pass through ``depth`` bottlenecks.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        depth: number of bottlenecks.
        residual: whether the bottlenecks are residual.
        depthwise: whether their 3x3 convolutions are depthwise separable.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        depth: int,
        residual: bool = True,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        half = channels // 2
        self.main = ConvNormAct(in_channels, half, 1)
        self.bypass = ConvNormAct(in_channels, half, 1)
        self.blocks = nn.Sequential(*(Bottleneck(half, residual, depthwise) for _ in range(depth)))
        self.join = ConvNormAct(2 * half, channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """``(B, channels, H, W)`` from ``(B, in_channels, H, W)``."""
        parts = self.blocks(self.main(input)), self.bypass(input)
        output: Tensor = self.join(torch.cat(parts, dim=1))
        return output


class SpatialPyramidPooling(nn.Module):
    """Maxima over 5x5, 9x9 and 13x13 windows beside the map, between two 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, channels // 2, 1)
        self.join = ConvNormAct(4 * (channels // 2), channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Map of the input's shape."""
        pooled = [self.reduce(input)]
        for _ in range(3):  # a 5x5 window over 5x5 maxima is a 9x9 window, and so on
            pooled.append(F.max_pool2d(pooled[-1], 5, stride=1, padding=2))
        output: Tensor = self.join(torch.cat(pooled, dim=1))
        return output
