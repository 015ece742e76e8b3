"""Splitting of the last convolution of a dense head into runs of categories.

Channel a·K + j of the convolution is that of anchor a and category j, so a run of categories uses A
slices of the weight. Its logits are in channels_last memory, where those of one location and anchor
are contiguous: they form a ``(bHWA, categories)`` matrix.
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
"""Approximate number of logits in memory on a CPU (12 MiB in float32)."""
LEAST_CHANNELS = 256
"""Minimum outputs of a run's convolution on a CPU: with fewer it reads its input too often."""
MOST_CHANNELS = 512
"""Maximum outputs of a run's convolution on a CPU: its weight is copied, and has a gradient."""
MEMORY_SHARE = 160
"""Logits may use 1 / this of a GPU's memory: 512 MiB of 80 GiB. Measured on an H200
(docs/results/gpu.md)."""
MOST_LOGITS = 1 << 28
"""Maximum number of logits in memory on a GPU: twice as many weren't faster."""
GPU_CHANNELS = 1 << 14
"""Maximum outputs of a run's convolution on a GPU: 9 x 1203 for LVIS are one run."""


@dataclass(frozen=True)
class Pieces:
    """Limits on what a streamed head keeps in memory at a time.

    They depend on the device's type and total memory, not on its free memory, so that a resumed run
    sums in the same order.

    Attributes:
        logits: approximate number of logits.
        least_channels: minimum outputs of a run's convolution.
        most_channels: maximum outputs of a run's convolution.
    """

    logits: int
    least_channels: int
    most_channels: int


def pieces_for(device: torch.device, dtype: torch.dtype, logits: int | None = None) -> Pieces:
    """The fastest limits measured for the device, with ``logits`` if given."""
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
        dtype: dtype of the computation.
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
        """The part of ``(A·K, ...)`` for a run of categories: a view ``(A, categories, ...)``."""
        return parameter.view(-1, self.num_classes, *parameter.shape[1:])[:, categories]


def checked_head(
    features: Sequence[Tensor], weight: Tensor, bias: Tensor | None, num_classes: int
) -> Head:
    """The head, in the dtype of autocast if enabled; float32 instead of float16.

    Raises:
        DataError: incompatible shapes.
    """
    outputs, channels, height, width = weight.shape if weight.ndim == 4 else (0, 0, 0, 0)
    if num_classes < 1 or outputs < 1 or outputs % num_classes or height != width or not width % 2:
        raise DataError(
            f"weight has shape {tuple(weight.shape)}, but for {num_classes} categories it must be "
            f"(a multiple of {num_classes}, channels, k, k) with k odd"
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
    """A run of categories with its part of the head.

    Attributes:
        categories: slice of ``0..K-1``.
        weight: ``(A·categories, C, k, k)`` in channels_last memory.
        bias: ``(A·categories,)`` or None.
        padding: padding of the convolution.
    """

    categories: slice
    weight: Tensor
    bias: Tensor | None
    padding: int

    def logits(self, feature: Tensor) -> Tensor:
        """``(b, A·categories, H, W)`` in channels_last memory."""
        # cuDNN adds the bias in a slow kernel; ours adds it at memory bandwidth.
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
        """Logits viewed as ``(bHWA, categories)``."""
        width = self.categories.stop - self.categories.start
        return logits.permute(0, 2, 3, 1).view(-1, width)

    def backward(
        self, grad_logits: Tensor, feature: Tensor, needed: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of the map, the weight and the bias, as far as needed."""
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
    """All categories, split into runs.

    The length of a run is limited by the logits of one image on the largest map and by the size of
    its part of the weight. The runs' weights share memory: a run is only valid until the next one.
    """
    per_category = max(f.shape[2] * f.shape[3] for f in features) * head.anchors
    length = max(pieces.logits // max(per_category, 1), -(-pieces.least_channels // head.anchors))
    length = min(length, max(pieces.most_channels // head.anchors, 1), head.num_classes)
    # Equal lengths, because a short last run would take as long as the others.
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
        if buffer is None:  # contiguous channels: only copied for another dtype
            weight = share.flatten(0, 1)
            weight = weight.to(head.dtype).contiguous(memory_format=torch.channels_last)
        else:
            weight = buffer[: share.shape[0] * share.shape[1]]
            weight.view(share.shape).copy_(share)
        yield Run(categories, weight, None if bias is None else bias.to(head.dtype), head.padding)


def blocks(feature: Tensor, run: Run, pieces: Pieces) -> Iterator[slice]:
    """Slices of the batch with about the maximum number of logits."""
    per_image = feature.shape[2] * feature.shape[3] * len(run.weight)
    images = max(1, pieces.logits // max(per_image, 1))
    for first in range(0, len(feature), images):
        yield slice(first, min(first + images, len(feature)))


def prepared(feature: Tensor, head: Head) -> Tensor:
    """A map in the head's dtype and channels_last memory, detached; only copied if necessary."""
    return feature.detach().to(head.dtype).contiguous(memory_format=torch.channels_last)
