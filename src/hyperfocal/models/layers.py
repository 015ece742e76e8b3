"""Layers of torch, corrected (strided convolution) or faster (group norm) on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HALF_PRECISION = (torch.bfloat16, torch.float16)


class StridedConv(nn.Conv2d):
    """A convolution that uses float32 where half precision gives wrong results on CPUs.

    torch (2.15, with oneDNN) reads uninitialised memory in padded bf16 convolutions whose stride is
    at least the width of the input: with AVX-512 in the weight gradient if the stride exceeds the
    width, with AMX also in the output if the width is at most the stride and the height is more
    (kernels of 3 and 5, 96 channels and more). The results are NaN or arbitrary. P6 has such an
    input for images up to 64 pixels wide, P7 up to 128, and the last stage of a backbone up to 32.
    Scans of kernels of 1 to 7, strides of 1 to 4, groups, dilation and both memory formats found no
    other failure. Maps as low as the stride use float32 too. All these maps are so small that
    float32 has no measurable cost.

    Other devices, precisions and maps are computed as by ``nn.Conv2d``, which has the same
    parameters and arguments.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.device.type != "cpu" or not self._covers(input):
            return self._as_torch(input, weight, bias)
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
        if dtype not in HALF_PRECISION:
            return self._as_torch(input, weight, bias)
        bias = None if bias is None else bias.float()
        with torch.autocast("cpu", enabled=False):
            return self._as_torch(input.float(), weight.float(), bias).to(dtype)

    def _as_torch(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output: Tensor = super()._conv_forward(input, weight, bias)
        return output

    def _covers(self, input: Tensor) -> bool:
        """Whether the stride is more than 1 and at least a side of the map."""
        sides = zip(self.stride, input.shape[-2:], strict=True)
        return any(stride > 1 and stride >= side for stride, side in sides)


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
