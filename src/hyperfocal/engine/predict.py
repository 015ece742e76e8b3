"""A trained detector, for inference on images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from hyperfocal.data import TransformConfig, collate, prepare_image
from hyperfocal.data.images import MAX_PIXELS
from hyperfocal.device import Precision, find_device, resolve, warn_if_emulated
from hyperfocal.experiment import Experiment
from hyperfocal.models import Detector, Inference
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.weights import load_weights
from hyperfocal.types import Category, ConfigError, Detections


class Predictor:
    """A trained detector with its transforms and categories, as returned by `hyperfocal.load`.

    Detections of some images, best first:

        model = hyperfocal.load("runs/demo")
        for found in model.predict(["a.jpg", "b.jpg"]):
            for box, score, label in zip(found.boxes, found.scores, found.labels):
                print(model.categories[label].name, float(score), box.tolist())

    Attributes:
        detector: the module, in eval mode.
        categories: ``categories[label]`` has the name and id from the user's annotations.
        transform: how images are resized for the detector.
        device: the detector's device.
        precision: as in training; if that was auto, the one that suits this device.
        divisor: images are padded to a multiple of this many pixels.
        max_pixels: maximum number of pixels of an image file.
    """

    def __init__(
        self,
        detector: Detector,
        categories: tuple[Category, ...],
        transform: TransformConfig,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        divisor: int = 32,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.device = torch.device(device)
        self.detector = detector.eval().to(self.device)
        self.categories = categories
        self.transform = transform
        self.precision = precision
        self.divisor = divisor
        self.max_pixels = max_pixels

    @property
    def max_detections(self) -> int | None:
        """Maximum detections per image; None if the detector has no such setting."""
        inference = getattr(self.detector, "inference", None)
        return inference.max_detections if isinstance(inference, Inference) else None

    @torch.no_grad()
    def predict(
        self,
        images: Any | Sequence[Any],
        *,
        batch_size: int = 8,
        advance: Callable[[int], None] = lambda images: None,
    ) -> list[Detections]:
        """Detect objects.

        Args:
            images: a path, PIL image, array ``(H, W, 3)`` or ``(H, W)`` uint8, or tensor
                ``(3, H, W)`` (uint8, or float in [0, 1]); or a list of these, of any sizes.
            batch_size: images per forward pass.
            advance: called with the number of images processed, for a progress bar.

        Returns:
            One `Detections` per image, in order; boxes in pixels of that image, best scores first.

        Raises:
            DataError: an image can't be read.
        """
        single = not isinstance(images, list | tuple)
        queue = [images] if single else list(images)
        found: list[Detections] = []
        for chunk in _chunks(queue, batch_size):
            samples = [prepare_image(image, self.transform) for image in chunk]
            batch = collate(samples, self.divisor).to(self.device)
            with self.autocast():
                found += [d.to("cpu") for d in self.detector.detect(batch)]
            advance(len(chunk))
        return found

    def autocast(self) -> torch.autocast:
        """The autocast context of the detector."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


Size = tuple[int, int | None]
"""Shorter side and maximum longer side of an image in pixels; None: keep the run's ratio of the
two."""


def adjusted(
    experiment: Experiment, size: Size | None = None, max_detections: int | None = None
) -> Experiment:
    """A run's settings with another image size or number of detections per image.

    Args:
        experiment: the run's settings.
        size: of the images that the detector gets; None: as in the run.
        max_detections: maximum per image; None: as in the run.

    Raises:
        ConfigError: an impossible value, or a detector without such a setting.
    """
    if size is not None:
        own = experiment.data.val_transform
        short, long = size
        if long is None:
            long = round(own.long * short / own.shorts[0])
        if long < short:
            raise ConfigError(f"--size {short} {long}: the longer side comes second")
        transform = dataclasses.replace(own, short=short, long=long)
        data = dataclasses.replace(experiment.data, val_transform=transform)
        experiment = dataclasses.replace(experiment, data=data)
    if max_detections is not None:
        model = experiment.model.with_max_detections(max_detections)
        experiment = dataclasses.replace(experiment, model=model)
    return experiment


def load(
    run: str | Path,
    device: str | int | torch.device = "auto",
    trust: Sequence[str] = (),
    *,
    size: Size | None = None,
    max_detections: int | None = None,
) -> Predictor:
    """Load the best weights of a run folder.

    Args:
        run: folder written by ``hyperfocal train`` or ``hyperfocal import``.
        device: ``"auto"``: a CUDA device if there is one, else the CPU.
        trust: modules outside the package that the run's components may come from.
        size: see `adjusted`.
        max_detections: see `adjusted`.

    Raises:
        ConfigError: the folder, its config or its weights are missing or damaged, or there is no
            such device.
    """
    folder, place = RunFolder(Path(run)), find_device(device)
    experiment = adjusted(folder.read_experiment(trust), size, max_detections)
    trained = folder.read_categories()
    # Downloads no initial weights: the run's own are loaded next.
    detector = experiment.model.offline().build(len(trained.categories), trained.counts)
    load_weights(folder.weights, detector)
    warn_if_emulated(experiment.train.precision, place)
    return Predictor(
        detector,
        trained.categories,
        experiment.data.val_transform,
        place,
        resolve(experiment.train.precision, place),
        experiment.data.divisor,
        experiment.data.max_pixels,
    )


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
