"""Creation of samples from image records or single images, and of batches from samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hyperfocal.data.images import read_image, to_image
from hyperfocal.data.transforms import TransformConfig, transform
from hyperfocal.types import Batch, DataError, ImageRecord, Sample, Target


def load_sample(record: ImageRecord, seed: int | None = None) -> Sample:
    """Load an image with its ground truth, without crowd boxes.

    Args:
        record: the image.
        seed: seed for random operations of the record's `ImageSource`; not used for files.

    Raises:
        DataError: the file can't be read, or its size has changed since boxes were checked; the
            message names the file and the image id.
    """
    if record.source is not None:
        return record.source.sample(record, seed)
    try:
        image = read_image(record.path)
    except DataError as error:
        raise DataError(f"image id {record.id}: {error}") from None
    hw = (int(image.shape[-2]), int(image.shape[-1]))
    if hw != (record.height, record.width):
        raise DataError(
            f"image id {record.id}: {record.path} is {hw[1]}x{hw[0]}, but it is annotated as "
            f"{record.width}x{record.height}; don't change files during a run, and read "
            "annotations with --data.check headers to have sizes corrected"
        )
    real = ~record.crowd
    target = Target(
        torch.from_numpy(record.boxes[real].astype(np.float32)),
        torch.from_numpy(record.labels[real].astype(np.int64)),
    )
    return Sample(image, target, record.id, hw)


def collate(
    samples: Sequence[Sample], divisor: int = 32, min_hw: tuple[int, int] = (0, 0)
) -> Batch:
    """Stack samples, padded with zeros at the right and the bottom.

    Args:
        samples: at least one; all images uint8 or all float.
        divisor: height and width of the batch are multiples of this.
        min_hw: minimum height and width of the batch, before rounding up.
    """
    sizes = [sample.image.shape[-2:] for sample in samples]
    height = max(min_hw[0], *(size[0] for size in sizes))
    width = max(min_hw[1], *(size[1] for size in sizes))
    height, width = (-(-side // divisor) * divisor for side in (height, width))
    images = samples[0].image.new_zeros(len(samples), 3, height, width)
    for n, sample in enumerate(samples):
        images[n, :, : sizes[n][0], : sizes[n][1]] = sample.image
    return Batch(
        images=images,
        valid_hw=torch.tensor([list(size) for size in sizes]),
        original_hw=torch.tensor([list(sample.original_hw) for sample in samples]),
        targets=tuple(sample.target for sample in samples),
        image_ids=tuple(sample.image_id for sample in samples),
    )


def prepare_image(
    image: str | Path | Image.Image | NDArray[np.generic] | Tensor, settings: TransformConfig
) -> Sample:
    """A sample without ground truth from a single image.

    Args:
        image: a path, or an image that `to_image` accepts.
        settings: how to resize the image; must not be random.

    Raises:
        DataError: the image can't be read, or its layout is ambiguous.
    """
    pixels = read_image(Path(image)) if isinstance(image, str | Path) else to_image(image)
    hw = (int(pixels.shape[-2]), int(pixels.shape[-1]))
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    # The generator isn't used: these settings have no randomness.
    return transform(Sample(pixels, target, 0, hw), settings, np.random.default_rng(0))
