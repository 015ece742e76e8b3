"""Conversion of torchvision's lists of images and targets to a `Batch`, and of results back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hyperfocal.data import TransformConfig, collate, transform
from hyperfocal.types import Batch, DataError, Detections, Sample, Target


def to_batch(
    images: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]] | None,
    num_classes: int,
    resize: tuple[int, int] | None,
) -> Batch:
    """Resize and pad images of any size, and their targets if given, to a batch.

    Args:
        images: ``(3, H, W)`` RGB each, uint8 or float in [0, 1].
        targets: ``{"boxes": (N, 4) xyxy pixels, "labels": (N,) in 0..K-1}`` per image.
        num_classes: K.
        resize: the shorter side and the limit of the longer one; None: no resizing.

    Raises:
        DataError: invalid shapes or labels; the message names the image.
    """
    if targets is not None and len(targets) != len(images):
        raise DataError(f"{len(images)} images, but {len(targets)} targets")
    settings = None if resize is None else TransformConfig(short=resize[0], long=resize[1])
    samples = []
    for n, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3:
            raise DataError(f"images[{n}]: shape {tuple(image.shape)}, but it must be (3, H, W)")
        target = _target(None if targets is None else targets[n], n, num_classes, image.device)
        sample = Sample(image, target, n, (int(image.shape[1]), int(image.shape[2])))
        if settings is not None:  # deterministic: the generator isn't used
            sample = transform(sample, settings, np.random.default_rng(0))
        samples.append(sample)
    if not samples:
        raise DataError("no images")
    return collate(samples)


def _target(
    given: Mapping[str, Tensor] | None, n: int, num_classes: int, device: torch.device
) -> Target:
    if given is None:
        empty = torch.zeros(0, 4, device=device)
        return Target(empty, torch.zeros(0, dtype=torch.int64, device=device))
    try:
        boxes, labels = given["boxes"], given["labels"]
    except (KeyError, TypeError):
        raise DataError(f"targets[{n}]: expected a dict with 'boxes' and 'labels'") from None
    if boxes.numel() == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise DataError(
            f"targets[{n}]: boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}, but they "
            "must be (N, 4) and (N,)"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(
            f"targets[{n}]: labels from {int(labels.min())} to {int(labels.max())}, but they must "
            f"be in 0..{num_classes - 1}. If labels start at 1, increase num_classes by one."
        )
    if bool((boxes[:, 2:] <= boxes[:, :2]).any()):
        raise DataError(f"targets[{n}]: a box without area; boxes are (x1, y1, x2, y2)")
    return Target(boxes.float(), labels.to(torch.int64))


def to_dict(found: Detections) -> dict[str, Tensor]:
    """Boxes, scores and labels of one image, best first."""
    return {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
