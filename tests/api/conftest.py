"""Small datasets in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

TINY: dict[str, Any] = {
    "train.iterations": 4,
    "train.batch_size": 4,
    "train.evaluations": 1,
    "train.precision": "fp32",
    "train.ema-decay": None,
    "model.backbone.name": "test_resnet",
    "model.backbone.pretrained": False,
    "data.workers": 0,
}
"""Settings over the recipe ``demo`` for a training of a second."""


class Squares(Dataset[Any]):
    """Coloured squares on noise; item ``i`` has category ``i % 2``.

    Args:
        size: items.
        kind: type of the image: ``array``, ``pil`` or ``tensor``.
        flip: mirror half of the items at random, image and box.
        first_label: label of the first category.
    """

    def __init__(
        self, size: int, kind: str = "array", flip: bool = False, first_label: int = 0
    ) -> None:
        self.size, self.kind, self.flip, self.first_label = size, kind, flip, first_label
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        from PIL import Image

        self.reads.append(index)
        rng = np.random.default_rng(index)
        image = rng.integers(0, 60, (96, 96, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(5, 50, 2))
        image[y : y + 30, x : x + 30] = [255, 200 * (index % 2), 0]
        if self.flip and torch.rand(()) < 0.5:
            image, x = image[:, ::-1].copy(), 96 - x - 30
        target = {
            "boxes": torch.tensor([[x, y, x + 30, y + 30]], dtype=torch.float32),
            "labels": torch.tensor([index % 2 + self.first_label]),
        }
        if self.kind == "pil":
            return Image.fromarray(image), target
        if self.kind == "tensor":
            return torch.from_numpy(image).permute(2, 0, 1) / 255, target
        return image, target


@pytest.fixture
def tiny() -> dict[str, Any]:
    return dict(TINY)
