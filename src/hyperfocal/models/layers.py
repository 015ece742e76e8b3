"""Layers of torch, corrected (strided convolution) or faster (group norm) on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HALF_PRECISION = (torch.bfloat16, torch.float16)


class StridedConv(nn.Conv2d):
    """A convolution that uses float32 where half precision gives wrong weight gradients.

    On CPUs with AVX-512, torch (2.15, with oneDNN) reads uninitialised memory in the bf16 weight
    gradient of a padded convolution whose input is narrower than its stride: the gradient is NaN or
    arbitrary. P6 has such an input for images up to 32 pixels wide, P7 up to 64. In 18,000 shapes
    (kernels of 1 to 7, strides of 1 to 4, groups, dilation, both memory formats) no other failure
    was found. Maps lower than the stride use float32 too. All these maps are so small that float32
    has no measurable cost.

    Other devices, precisions and maps are computed as by ``nn.Conv2d``, which has the same
    parameters and arguments.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The convolution, in the dtype of ``nn.Conv2d``'s output."""
        if input.device.type != "cpu" or not self._exceeds(input):
            return super().forward(input)
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
        if dtype not in HALF_PRECISION:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast("cpu", enabled=False):
            output: Tensor = self._conv_forward(input.float(), self.weight.float(), bias)
            return output.to(dtype)

    def _exceeds(self, input: Tensor) -> bool:
        """Whether the stride is larger than a side of the map."""
        height, width = input.shape[-2:]
        return self.stride[0] > height or self.stride[1] > width


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` for maps ``(B, C, H, W)``, which keeps their memory format.

    On CPUs torch (2.15) takes 8 times as long for channels_last maps as for contiguous ones if a
    group has few channels (bf16, 64 channels in 32 groups, 20x20, forward and backward: 5.7 ms
    against 0.74 with both copies). So the map is copied to contiguous memory and back; the results
    are equal up to rounding. On GPUs no copy is made.
    """

    def forward(self, input: Tensor) -> Tensor:  # named as in nn.GroupNorm
        """The normalised input, in its memory format."""
        detour = input.device.type == "cpu" and input.is_contiguous(
            memory_format=torch.channels_last
        )
        if not detour:
            return super().forward(input)
        return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)
