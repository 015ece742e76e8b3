"""How the last convolution of a dense head is cut into runs of categories.

Channel a·K + j of the convolution belongs to anchor a and category j, so a run of categories takes
A slices of the weight. Its logits lie in channels_last memory, where those of one location and
anchor follow each other: they are a ``(bHWA, categories)`` matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfocal.losses.kernels.function import add_to_columns, has_kernel
from hyperfocal.types import DataError

LOGITS_AT_ONCE = 3 << 20
"""Logits that exist at a time on a CPU, about (12 MiB in float32)."""
LEAST_CHANNELS = 256
"""Outputs of a run's convolution there, at least: with fewer it would read its input too often."""
MOST_CHANNELS = 512
"""And at most: its weight is copied, and has a gradient."""
MEMORY_SHARE = 160
"""On a GPU logits may take one part in this many of its memory: 512 MiB of 80 GiB. Measured on an
H200 (docs/results/gpu.md)."""
MOST_LOGITS = 1 << 28
"""And these are enough: twice as many weren't faster."""
GPU_CHANNELS = 1 << 14
"""Outputs of a run's convolution on a GPU: LVIS's 9 x 1203 are one run."""


@dataclass(frozen=True)
class Pieces:
    """How much of a streamed head exists at a time.

    It depends on the device's kind and size, not on what happens to be free, so that a run that
    resumes adds up in the same order.

    Attributes:
        logits: logits, about.
        least_channels: outputs of a run's convolution, at least.
        most_channels: and at most.
    """

    logits: int
    least_channels: int
    most_channels: int


def pieces_for(device: torch.device, dtype: torch.dtype, logits: int | None = None) -> Pieces:
    """The pieces that were fastest on such a device, with as many logits as asked for."""
    if device.type != "cuda":
        return Pieces(logits or LOGITS_AT_ONCE, LEAST_CHANNELS, MOST_CHANNELS)
    memory = torch.cuda.get_device_properties(device).total_memory
    fitting = min(max(memory // MEMORY_SHARE // dtype.itemsize, LOGITS_AT_ONCE), MOST_LOGITS)
    return Pieces(logits or fitting, GPU_CHANNELS, GPU_CHANNELS)


@dataclass(frozen=True)
class Head:
    """A last convolution, detached: stride 1, padded by half its kernel.

    Attributes:
        weight: ``(A·K, C, k, k)``.
        bias: ``(A·K,)`` or None.
        num_classes: K.
        dtype: what it computes in.
    """

    weight: Tensor
    bias: Tensor | None
    num_classes: int
    dtype: torch.dtype

    @property
    def anchors(self) -> int:
        """A, anchors per location."""
        return len(self.weight) // self.num_classes

    @property
    def padding(self) -> int:
        """Pixels on each side."""
        return self.weight.shape[-1] // 2

    def share(self, parameter: Tensor, categories: slice) -> Tensor:
        """What a run of categories has of ``(A·K, ...)``: a view ``(A, categories, ...)``."""
        return parameter.view(-1, self.num_classes, *parameter.shape[1:])[:, categories]


def checked_head(
    features: Sequence[Tensor], weight: Tensor, bias: Tensor | None, num_classes: int
) -> Head:
    """The head, in autocast's dtype where that is on; float32 instead of float16.

    Raises:
        DataError: shapes that don't fit together.
    """
    outputs, channels, height, width = weight.shape if weight.ndim == 4 else (0, 0, 0, 0)
    if num_classes < 1 or outputs < 1 or outputs % num_classes or height != width or not width % 2:
        raise DataError(
            f"weight has shape {tuple(weight.shape)}, but for {num_classes} categories it must be "
            "(a multiple of them, channels, k, k) with k odd"
        )
    if bias is not None and bias.shape != (outputs,):
        raise DataError(f"bias has shape {tuple(bias.shape)}, but it must be ({outputs},)")
    if not features or any(f.ndim != 4 or f.shape[1] != channels for f in features):
        raise DataError(
            f"features have shapes {[tuple(f.shape) for f in features]}, but there must be at "
            f"least one, each (B, {channels}, H, W)"
        )
    kind = weight.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    if dtype == torch.float16:
        dtype = torch.float32
    detached = None if bias is None else bias.detach()
    return Head(weight.detach(), detached, num_classes, dtype)


@dataclass(frozen=True)
class Run:
    """A run of categories and the head's share of it, ready to convolve.

    Attributes:
        categories: slice of ``0..K-1``.
        weight: ``(A·categories, C, k, k)`` in channels_last memory.
        bias: ``(A·categories,)`` or None.
        padding: of the convolution.
    """

    categories: slice
    weight: Tensor
    bias: Tensor | None
    padding: int

    def logits(self, feature: Tensor) -> Tensor:
        """``(b, A·categories, H, W)`` in channels_last memory."""
        # cuDNN's convolution leaves the bias to a slow kernel; ours adds it at the memory's speed.
        apart = (
            self.bias is not None and feature.device.type == "cuda" and has_kernel(feature.device)
        )
        with torch.autocast(feature.device.type, enabled=False):
            bias = None if apart else self.bias
            made = F.conv2d(feature, self.weight, bias, padding=self.padding)
        made = made.contiguous(memory_format=torch.channels_last)
        if apart and self.bias is not None:
            add_to_columns(made.permute(0, 2, 3, 1).flatten(0, 2), self.bias)
        return made

    def rows(self, logits: Tensor) -> Tensor:
        """Logits seen as ``(bHWA, categories)``."""
        width = self.categories.stop - self.categories.start
        return logits.permute(0, 2, 3, 1).view(-1, width)

    def backward(
        self, grad_logits: Tensor, feature: Tensor, needed: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of the map, the weight and the bias, those that are needed."""
        grads: tuple[Tensor | None, Tensor | None, Tensor | None]
        grads = torch.ops.aten.convolution_backward(
            grad_logits,
            feature,
            self.weight,
            [len(self.weight)],
            [1, 1],
            [self.padding] * 2,
            [1, 1],
            False,
            [0, 0],
            1,
            list(needed),
        )
        return grads


def runs(features: Sequence[Tensor], head: Head, pieces: Pieces) -> Iterator[Run]:
    """All categories, run by run.

    A run is as long as the largest map's logits of one image allow, but not so long that its share
    of the weight gets large itself. The runs' weights share their memory: one is good until the
    next is asked for.
    """
    per_category = max(f.shape[2] * f.shape[3] for f in features) * head.anchors
    length = max(pieces.logits // max(per_category, 1), -(-pieces.least_channels // head.anchors))
    length = min(length, max(pieces.most_channels // head.anchors, 1), head.num_classes)
    # Equal lengths: a short last run would take as long as the others.
    length = -(-head.num_classes // -(-head.num_classes // length))
    buffer = None
    if length < head.num_classes and head.anchors > 1:
        buffer = torch.empty(
            (head.anchors * length, *head.weight.shape[1:]),
            dtype=head.dtype,
            device=head.weight.device,
            memory_format=torch.channels_last,
        )
    for first in range(0, head.num_classes, length):
        categories = slice(first, min(first + length, head.num_classes))
        bias = None if head.bias is None else head.share(head.bias, categories).flatten()
        share = head.share(head.weight, categories)
        if buffer is None:  # channels that follow each other: no copy but for another dtype
            weight = share.flatten(0, 1)
            weight = weight.to(head.dtype).contiguous(memory_format=torch.channels_last)
        else:
            weight = buffer[: share.shape[0] * share.shape[1]]
            weight.view(share.shape).copy_(share)
        yield Run(categories, weight, None if bias is None else bias.to(head.dtype), head.padding)


def blocks(feature: Tensor, run: Run, pieces: Pieces) -> Iterator[slice]:
    """Slices of the batch with about as many logits as may exist at a time."""
    per_image = feature.shape[2] * feature.shape[3] * len(run.weight)
    images = max(1, pieces.logits // max(per_image, 1))
    for first in range(0, len(feature), images):
        yield slice(first, min(first + images, len(feature)))


def prepared(feature: Tensor, head: Head) -> Tensor:
    """A map in the head's dtype and channels_last memory, detached; no copy where it is already."""
    return feature.detach().to(head.dtype).contiguous(memory_format=torch.channels_last)
