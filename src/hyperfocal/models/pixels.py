"""Normalisation and padding of a batch's pixels for the backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperfocal import config
from hyperfocal.types import Batch

MULTIPLE = 32
"""Height and width are padded to multiples of this, the largest stride of a backbone."""


def padded_hw(batch: Batch) -> tuple[int, int]:
    """Size of the batch's images after padding to multiples of 32."""
    height, width = batch.images.shape[-2:]
    return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE


def padding(valid_hw: Tensor, height: int, width: int) -> Tensor:
    """``(B, 1, H, W)`` bool: pixels outside images of ``valid_hw (B, 2)``."""
    rows, columns = (torch.arange(n, device=valid_hw.device) for n in (height, width))
    below = rows[None, :, None] >= valid_hw[:, 0, None, None]
    right = columns[None, None, :] >= valid_hw[:, 1, None, None]
    return (below | right)[:, None]


class PixelNorm(nn.Module):
    """``(pixel - mean) / std`` per channel, with padding of exactly 0 afterwards.

    Args:
        mean, std, bgr: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(config.Config):
        """Settings of `PixelNorm`."""

        mean: tuple[float, float, float] | None = None
        """Mean per channel in [0, 255], in the network's channel order; none: the backbone's.
        Caffe's weights: 102.98 115.95 122.77."""
        std: tuple[float, float, float] | None = None
        """Standard deviation per channel; none: the backbone's. Caffe's weights: 1 1 1."""
        bgr: bool = False
        """Channel order blue, green, red instead of red, green, blue (Caffe's weights)."""

        kind: ClassVar[str] = "pixels"

        def __post_init__(self) -> None:
            self._require(
                self.std is None or all(s > 0 for s in self.std), "std", "positive numbers"
            )

        def build(self, mean: tuple[float, ...], std: tuple[float, ...]) -> PixelNorm:
            """The normalisation; ``mean`` and ``std`` (RGB, in [0, 1]) are the backbone's."""
            order = -1 if self.bgr else 1
            own = tuple(255 * m for m in mean)[::order], tuple(255 * s for s in std)[::order]
            return PixelNorm(**self.arguments(mean=self.mean or own[0], std=self.std or own[1]))

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], bgr: bool = False) -> None:
        super().__init__()
        self.bgr = bgr
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """Normalised float32 images in channels_last memory, H and W multiples of 32."""
        images = batch.images.flip(1) if self.bgr else batch.images
        unit = 255.0 if images.is_floating_point() else 1.0
        scale, shift = unit / self.std, self.mean / self.std
        images = images.to(torch.float32, memory_format=torch.channels_last)
        images = (images * scale.view(3, 1, 1)).sub_(shift.view(3, 1, 1))
        height, width = images.shape[-2:]
        if images.is_cuda:  # reading the sizes would synchronise with the GPU
            images.masked_fill_(padding(batch.valid_hw.to(images.device), height, width), 0)
        else:
            for image, (valid_h, valid_w) in zip(images, batch.valid_hw.tolist(), strict=True):
                if valid_h < height:
                    image[:, valid_h:] = 0
                if valid_w < width:
                    image[:, :, valid_w:] = 0
        full_h, full_w = padded_hw(batch)
        if (full_h, full_w) != (height, width):
            images = F.pad(images, (0, full_w - width, 0, full_h - height))
            images = images.contiguous(memory_format=torch.channels_last)
        return images
