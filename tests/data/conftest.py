"""Small COCO datasets, written to a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random RGB image, which JPEG changes little."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def noise_image() -> Callable[..., np.ndarray]:
    return noise


class CocoFolder:
    """A COCO dataset in a folder: three images (100x80), two categories, four boxes."""

    def __init__(self, root: Path) -> None:
        self.file = root / "train.json"
        self.images = root / "images"
        self.images.mkdir(parents=True)
        for n in (1, 2, 3):
            Image.fromarray(noise(80, 100, n)).save(self.images / f"{n}.jpg")
        self.data: dict[str, Any] = {
            "images": [
                {"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in (1, 2, 3)
            ],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "ant"}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 20, 30, 40], "area": 900},
                {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0, 0, 100, 80]},
                {"id": 3, "image_id": 3, "category_id": 7, "bbox": [50.5, 5.25, 10, 10]},
                {"id": 4, "image_id": 3, "category_id": 3, "bbox": [5, 5, 60, 60], "iscrowd": 1},
            ],
        }

    def annotate(self, **entry: Any) -> None:
        """Add an annotation, by default a good one of image 1."""
        number = len(self.data["annotations"]) + 1
        base = {"id": number, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]}
        self.data["annotations"].append(base | entry)

    def write(self) -> Path:
        self.file.write_text(json.dumps(self.data))
        return self.file


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path / "coco")
