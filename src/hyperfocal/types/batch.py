"""Images and targets on their way from the loader to the detector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """Ground truth of one image, in the frame of its image tensor.

    Attributes:
        boxes: ``(N, 4)`` float32 xyxy pixels.
        labels: ``(N,)`` int64 in ``0..K-1``.
    """

    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Target:
        """Both tensors on ``device``."""
        return Target(
            self.boxes.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class Sample:
    """One image with its ground truth, as passed through the transforms.

    Attributes:
        image: ``(3, H, W)`` uint8 RGB.
        target: boxes in the frame of ``image``.
        image_id: id in the annotation file.
        original_hw: size of the displayed image, before any transform.
    """

    image: Tensor
    target: Target
    image_id: int
    original_hw: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Images of one step, padded at the right and bottom to the same size.

    Attributes:
        images: ``(B, 3, H, W)`` uint8, or float in [0, 1]; RGB. The detector normalises.
        valid_hw: ``(B, 2)`` int64, height and width of each image without its padding.
        original_hw: ``(B, 2)`` int64, size before any transform.
        targets: one per image, in the frame of ``images``.
        image_ids: ids in the annotation file.
        seeds: seed of each image's random choices in training, such as sampled regions, which is
            the same for any number of processes and micro-batches; empty: not seeded.
    """

    images: Tensor
    valid_hw: Tensor
    original_hw: Tensor
    targets: tuple[Target, ...]
    image_ids: tuple[int, ...]
    seeds: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, part: slice) -> Batch:
        """The images of a slice, with the same padding (a micro-batch)."""
        return Batch(
            self.images[part],
            self.valid_hw[part],
            self.original_hw[part],
            self.targets[part],
            self.image_ids[part],
            self.seeds[part],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Images and targets on ``device``; the sizes stay on the CPU."""
        return Batch(
            self.images.to(device, non_blocking=non_blocking),
            self.valid_hw,
            self.original_hw,
            tuple(t.to(device, non_blocking) for t in self.targets),
            self.image_ids,
            self.seeds,
        )

    def pin_memory(self) -> Batch:
        """Page-locked copy, for asynchronous transfer to a GPU."""
        return Batch(
            self.images.pin_memory(),
            self.valid_hw,
            self.original_hw,
            tuple(Target(t.boxes.pin_memory(), t.labels.pin_memory()) for t in self.targets),
            self.image_ids,
            self.seeds,
        )
