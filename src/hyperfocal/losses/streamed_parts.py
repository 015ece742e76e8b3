"""How the last convolution of a dense head is cut into parts: blocks of images, runs of categories.

Channel a·K + j of the convolution belongs to anchor a and category j, so a run of categories takes
A slices of the weight. The parts' logits lie in channels_last memory, where those of one location
and anchor follow each other: a part is a ``(bHWA, categories)`` matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfocal.types import DataError

LOGITS_AT_ONCE = 1 << 22
"""Logits that exist at a time, about (16 MiB in float32)."""
LEAST_CHANNELS = 256
"""Outputs of a part's convolution, at least: with fewer it would read its input too often."""


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


@dataclass(frozen=True)
class Part:
    """A block of images and a run of categories of one level.

    Attributes:
        images: slice of the batch.
        categories: slice of ``0..K-1``.
    """

    images: slice
    categories: slice

    def of_parameter(self, parameter: Tensor, num_classes: int) -> Tensor:
        """The part's share ``(A, categories, ...)`` of something ``(A·K, ...)``; a view."""
        return parameter.view(-1, num_classes, *parameter.shape[1:])[:, self.categories]

    @property
    def num_categories(self) -> int:
        """Categories in the run."""
        return int(self.categories.stop - self.categories.start)


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


def parts(feature: Tensor, head: Head, logits_at_once: int) -> Iterator[Part]:
    """All runs of categories of one block of images, then of the next."""
    batch, _, height, width = feature.shape
    per_category = max(height * width * head.anchors, 1)
    run = max(logits_at_once // (per_category * batch), -(-LEAST_CHANNELS // head.anchors))
    run = min(run, head.num_classes)
    # Equal lengths: a short last run would take as long as the others.
    run = -(-head.num_classes // -(-head.num_classes // run))
    block = max(1, logits_at_once // (per_category * run))
    for image in range(0, batch, block):
        for first in range(0, head.num_classes, run):
            yield Part(
                slice(image, min(image + block, batch)),
                slice(first, min(first + run, head.num_classes)),
            )


@dataclass(frozen=True)
class Convolved:
    """A part's logits ``(b, A·categories, H, W)`` and what they were made of."""

    logits: Tensor
    feature: Tensor
    weight: Tensor

    def rows(self, part: Part) -> Tensor:
        """The logits seen as ``(bHWA, categories)``."""
        return self.logits.permute(0, 2, 3, 1).view(-1, part.num_categories)


def convolve(feature: Tensor, head: Head, part: Part) -> Convolved:
    """The part's logits, everything in channels_last memory."""
    last = torch.channels_last
    x = feature[part.images].to(head.dtype).contiguous(memory_format=last)
    w = part.of_parameter(head.weight, head.num_classes).flatten(0, 1)
    w = w.to(head.dtype).contiguous(memory_format=last)
    b = None
    if head.bias is not None:
        b = part.of_parameter(head.bias, head.num_classes).flatten().to(head.dtype)
    with torch.autocast(x.device.type, enabled=False):
        logits = F.conv2d(x, w, b, padding=head.padding)
    return Convolved(logits.contiguous(memory_format=last), x, w)


def convolve_back(
    made: Convolved, head: Head, needed: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the part's input, weight and bias, from the gradient in place of its logits."""
    grads: tuple[Tensor | None, Tensor | None, Tensor | None]
    grads = torch.ops.aten.convolution_backward(
        made.logits,
        made.feature,
        made.weight,
        [len(made.weight)],
        [1, 1],
        [head.padding] * 2,
        [1, 1],
        False,
        [0, 0],
        1,
        list(needed),
    )
    return grads
