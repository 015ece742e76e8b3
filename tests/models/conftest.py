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


@pytest.fixture
def four_images() -> Callable[[], Batch]:
    """Makes four images of three shapes."""

    def make() -> Batch:
        """A square, a flat and a tall rectangle of their own colours, in four arrangements."""
        shapes = [((40, 40), (220, 40, 40)), ((28, 56), (40, 220, 40)), ((64, 32), (60, 60, 240))]
        corners = [
            [(4, 8), (60, 64), (20, 84)],
            [(50, 10), (8, 60), (40, 88)],
            [(8, 70), (60, 4), (24, 20)],
            [(52, 80), (4, 4), (30, 40)],
        ]
        images = torch.full((4, 3, 96, 128), 120, dtype=torch.uint8)
        targets = []
        for image, places in zip(images, corners, strict=True):
            boxes = []
            for (y, x), ((h, w), color) in zip(places, shapes, strict=True):
                image[:, y : y + h, x : x + w] = torch.tensor(color, dtype=torch.uint8)[
                    :, None, None
                ]
                boxes.append([x, y, min(x + w, 128), min(y + h, 96)])
            targets.append(Target(torch.tensor(boxes).float(), torch.arange(3)))
        hw = torch.tensor([[96, 128]] * 4)
        return Batch(images, hw, hw * 2, tuple(targets), (0, 1, 2, 3))

    return make
