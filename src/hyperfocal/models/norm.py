"""Group norm that is as fast in channels_last as in contiguous memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
