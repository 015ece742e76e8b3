"""Priors on a small grid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hyperfocal.types import Priors

GridPriors = Callable[[tuple[float, ...]], Priors]


@pytest.fixture(scope="session")
def grid_priors() -> GridPriors:
    """Squares of the given sizes (in strides) on a 64 pixel image at strides 8, 16 and 32."""

    def make(sizes: tuple[float, ...] = (1.0,)) -> Priors:
        boxes, strides, counts = [], [], []
        for stride in (8, 16, 32):
            before = len(boxes)
            for row in range(64 // stride):
                for column in range(64 // stride):
                    for size in sizes:
                        x, y, half = (
                            (column + 0.5) * stride,
                            (row + 0.5) * stride,
                            size * stride / 2,
                        )
                        boxes.append([x - half, y - half, x + half, y + half])
                        strides.append(float(stride))
            counts.append(len(boxes) - before)
        return Priors(torch.tensor(boxes), torch.tensor(strides), tuple(counts))

    return make
