"""Small batches and a small detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from hyperfocal.models import FPN, AnchorGenerator, Backbone, DenseHead, RetinaNet
from hyperfocal.types import Batch, CategoryCounts, Target

SMALL = RetinaNet.Config(
    backbone=Backbone.Config("resnet18", pretrained=False, norm="train"),
    neck=FPN.Config(channels=32),
    anchors=AnchorGenerator.Config(scales_per_octave=2),
    head=DenseHead.Config(depth=1),
)


def make_batch(
    boxes: list[list[list[float]]],
    labels: list[list[int]],
    hw: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Batch:
    """Noise images with the given boxes; the last image has 8 rows and 16 columns of padding."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(boxes), 3, *hw), dtype=torch.uint8, generator=generator)
    valid = torch.tensor([hw] * len(boxes))
    valid[-1] -= torch.tensor([8, 16])
    targets = [
        Target(torch.tensor(b).reshape(-1, 4), torch.tensor(k, dtype=torch.long))
        for b, k in zip(boxes, labels, strict=True)
    ]
    return Batch(images, valid, valid * 2, tuple(targets), tuple(range(len(boxes))))


@pytest.fixture
def batch() -> Batch:
    """Three images with 2, 1 and 0 boxes."""
    return make_batch(
        [[[8, 8, 60, 60], [40, 20, 90, 80]], [[10, 30, 42, 62]], []], [[0, 3], [2], []]
    )


@pytest.fixture
def small_config() -> RetinaNet.Config:
    """Settings of the small detector."""
    return SMALL


@pytest.fixture
def small() -> Callable[..., RetinaNet]:
    """Builds the small detector with some settings replaced."""

    def build(
        num_classes: int = 4, counts: CategoryCounts | None = None, **changes: object
    ) -> RetinaNet:
        torch.manual_seed(0)
        return dataclasses.replace(SMALL, **changes).build(num_classes, counts)

    return build
