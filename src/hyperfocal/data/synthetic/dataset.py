"""A synthetic long-tailed detection dataset, without downloads and with exact boxes.

Each category is a combination of shape, colour and fill, such as "striped teal heart", and any two
categories differ in at least two of the three. The number of training images decreases
geometrically from the first category to the last. The validation split is balanced, so that the AP
of rare categories is measured as precisely as that of frequent ones.

Files written by `make_dataset`:

    out/
      synthetic.json           its settings
      train.json, val.json     COCO annotations
      train/, val/             JPEG images, named 000001.jpg, ...
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperfocal import config
from hyperfocal.data.synthetic.drawing import draw_image
from hyperfocal.data.synthetic.looks import COLOURS, FILLS, category_look
from hyperfocal.types import Category, ConfigError, DataError

DRAWING_VERSION = 1
"""Increased when the same settings give other images, so that old folders are generated again."""

MARKER = "synthetic.json"
"""File that marks a generated folder, with its settings."""

DOUBLED = 0.15
"""Share of a category's images that hold a second object of it."""


@dataclass(frozen=True)
class SyntheticConfig(config.Config):
    """Settings of a synthetic dataset."""

    num_categories: int = 24
    """Number of categories, from the most frequent to the rarest; at most 60."""
    imbalance: float = 100.0
    """Ratio of the numbers of training images (and objects) of the first and the last category."""
    train_images: int = 1000
    """Images in the training split."""
    val_images: int = 200
    """Images in the validation split, where all categories are equally frequent."""
    image_size: int = 160
    """Height and width in pixels."""
    objects_per_image: float = 3.5
    """Mean number of objects per image; an image has between none and about twice as many."""
    min_object: float = 0.11
    """Longer side of the smallest object, as a fraction of the image size."""
    max_object: float = 0.6
    """Longer side of the largest object, as a fraction of the image size."""
    seed: int = 0
    """Seed; the same settings and seed give the same images and annotations."""

    def __post_init__(self) -> None:
        limit = len(COLOURS) * len(FILLS)
        self._require(2 <= self.num_categories <= limit, "num_categories", f"from 2 to {limit}")
        self._require(1 <= self.imbalance < math.inf, "imbalance", "a number of at least 1")
        self._require(self.train_images >= 1, "train_images", "at least 1")
        self._require(self.val_images >= 1, "val_images", "at least 1")
        self._require(32 <= self.image_size <= 4096, "image_size", "from 32 to 4096")
        self._require(0.5 <= self.objects_per_image <= 12, "objects_per_image", "from 0.5 to 12")
        self._require(0 < self.min_object <= self.max_object, "min_object", "in (0, max_object]")
        self._require(self.max_object <= 0.8, "max_object", "at most 0.8")
        self._require(self.seed >= 0, "seed", "at least 0")


def categories(settings: SyntheticConfig) -> tuple[Category, ...]:
    """The categories in the order of their labels; ids count from 1."""
    looks = [category_look(label) for label in range(settings.num_categories)]
    return tuple(
        Category(id=label + 1, name=f"{look.fill} {look.colour} {look.shape}")
        for label, look in enumerate(looks)
    )


# --------------------------------------------------------------------------- counts


def train_image_counts(settings: SyntheticConfig) -> NDArray[np.int64]:
    """Number of training images with each category: ``tail * imbalance ** (1 - k / (K - 1))``,
    rounded.

    ``tail`` is the largest that ``train_images`` and ``objects_per_image`` allow.

    Returns:
        ``(K,)``, decreasing; the ratio of the first and the last is at least ``imbalance``.

    Raises:
        ConfigError: too few images for this imbalance.
    """
    k = settings.num_categories
    profile = settings.imbalance ** (1 - np.arange(k) / (k - 1))
    objects = settings.train_images * settings.objects_per_image / (1 + DOUBLED)
    tail = math.floor(min(objects / profile.sum(), settings.train_images / profile[0]))
    if tail < 1:
        per_image = settings.objects_per_image / (1 + DOUBLED)
        needed = math.ceil(max(profile.sum() / per_image, profile[0]))
        raise ConfigError(
            f"train_images = {settings.train_images} is too few for {k} categories at an imbalance "
            f"of {settings.imbalance:g}; it takes {needed}, or a smaller imbalance"
        )
    counts: NDArray[np.int64] = np.ceil(tail * profile - 1e-6).astype(np.int64)
    return counts


def val_image_counts(settings: SyntheticConfig) -> NDArray[np.int64]:
    """Number of validation images with each category: the same for all, at least one."""
    objects = settings.val_images * settings.objects_per_image / (1 + DOUBLED)
    each = min(max(1, int(objects / settings.num_categories)), settings.val_images)
    return np.full(settings.num_categories, each, dtype=np.int64)


def _deal(
    counts: NDArray[np.int64], num_images: int, mean_objects: float, rng: np.random.Generator
) -> list[list[int]]:
    """Labels of the objects in each image, such that ``counts[k]`` images contain label ``k``."""
    room = rng.uniform(0.5, 2 * mean_objects - 0.5, num_images)
    images: list[list[int]] = [[] for _ in range(num_images)]
    for label, count in enumerate(counts.tolist()):
        weight = np.maximum(room, 0.02)
        chosen = rng.choice(num_images, count, replace=False, p=weight / weight.sum())
        twice = int(DOUBLED * count)
        for index in (*chosen.tolist(), *chosen[:twice].tolist()):
            images[index].append(label)
            room[index] -= 1
    return images


# --------------------------------------------------------------------------- files


def is_generated(out: Path, settings: SyntheticConfig) -> bool:
    """Whether ``out`` contains a complete dataset with these settings."""
    return bool(generated_with(out) == _marker(settings))


def generated_with(out: Path) -> Any:
    """Settings and version of the dataset in ``out``, as JSON; None if there is no dataset."""
    try:
        return json.loads((out / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def make_dataset(out: Path, settings: SyntheticConfig) -> None:
    """Generate the training and validation splits in a folder.

    The folder gets its name when it is complete. A folder generated earlier is replaced.

    Args:
        out: folder to create, with its parents.
        settings: settings of the dataset.

    Raises:
        ConfigError: too few training images for the imbalance.
        DataError: ``out`` exists and was not generated by this function.
    """
    if out.exists() and generated_with(out) is None and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out}: exists and has no {MARKER}, so it isn't a synthetic dataset and isn't "
            "replaced; give another folder or move it away"
        )
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for number, (split, counts, images) in enumerate(
            (
                ("train", train_image_counts(settings), settings.train_images),
                ("val", val_image_counts(settings), settings.val_images),
            )
        ):
            (partial / split).mkdir(parents=True)
            _make_split(partial, split, number, counts, images, settings)
        (partial / MARKER).write_text(json.dumps(_marker(settings), indent=2), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make_split(
    folder: Path,
    split: str,
    number: int,
    counts: NDArray[np.int64],
    num_images: int,
    settings: SyntheticConfig,
) -> None:
    rng = np.random.default_rng((settings.seed, number))
    size = settings.image_size
    sides = (settings.min_object * size, settings.max_object * size)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, labels in enumerate(_deal(counts, num_images, settings.objects_per_image, rng)):
        # Each image has its own generator, so that images don't depend on each other.
        stream = np.random.default_rng((settings.seed, number, index + 1))
        drawn = draw_image(labels, size, sides, stream)
        name = f"{index + 1:06d}.jpg"
        Image.fromarray(drawn.pixels).save(folder / split / name, quality=92, subsampling=0)
        height, width = drawn.pixels.shape[:2]
        images.append({"id": index + 1, "file_name": name, "height": height, "width": width})
        for box, label, area in zip(drawn.boxes, drawn.labels.tolist(), drawn.area, strict=True):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
                    "area": round(float(area), 2),
                    "iscrowd": 0,
                }
            )
    data = {
        "info": {"description": f"hyperfocal synthetic {split} split", **_marker(settings)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c.id, "name": c.name} for c in categories(settings)],
    }
    (folder / f"{split}.json").write_text(json.dumps(data), encoding="utf-8")


def _marker(settings: SyntheticConfig) -> dict[str, Any]:
    return {"drawing": DRAWING_VERSION, "settings": config.dump(settings)}
