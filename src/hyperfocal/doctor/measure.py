"""What advice rests on: counts, sizes and the imbalance that a detector's head will see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hyperfocal.doctor.anchors import BoxTable, Fit, level_strides, resized_boxes
from hyperfocal.engine.experiment import Experiment
from hyperfocal.evaluation import FrequencyGroups
from hyperfocal.types import AnnotationSet, CategoryCounts, Target

ASSIGNED_IMAGES = 64
"""Images on which the recipe's own assigner counts positives."""


@dataclass(frozen=True)
class Measurements:
    """A training split in numbers.

    Attributes:
        categories: K.
        images: in the split.
        boxes: without crowds.
        counts: per category.
        groups: frequency group of each category, None without training images.
        ratio: training images of the most frequent over those of the rarest category (of those
            that occur).
        native_short: median length of the shorter side of an image, pixels.
        table: the boxes as the network sees them.
        fit: of the recipe's anchors; see `measure_fit`.
        priors: anchors or locations in an image of typical size.
        positives: of these, mean number that answer for an object in an image with boxes.
    """

    categories: int
    images: int
    boxes: int
    counts: CategoryCounts
    groups: tuple[str | None, ...]
    ratio: float
    native_short: float
    table: BoxTable
    fit: Fit | None
    priors: float
    positives: float

    def in_group(self, group: str) -> int:
        """Number of categories in a frequency group."""
        return sum(g == group for g in self.groups)


def measure(
    experiment: Experiment, annotations: AnnotationSet, fit: Fit | None, seed: int = 0
) -> Measurements:
    """Count and measure a training split under an experiment's transforms and priors."""
    counts = annotations.counts()
    present = [n for n in counts.images if n > 0]
    data = experiment.data
    table = fit.table if fit else resized_boxes(annotations, data.train_transform, data.divisor)
    priors, positives = _imbalance(experiment, annotations, table, seed)
    groups: FrequencyGroups = experiment.evaluation.groups
    return Measurements(
        categories=len(annotations.categories),
        images=len(annotations.images),
        boxes=sum(counts.instances),
        counts=counts,
        groups=groups.assign(counts),
        ratio=max(present) / min(present) if present else 1.0,
        native_short=float(np.median([min(r.height, r.width) for r in annotations.images])),
        table=table,
        fit=fit,
        priors=priors,
        positives=positives,
    )


def _imbalance(
    experiment: Experiment, annotations: AnnotationSet, table: BoxTable, seed: int
) -> tuple[float, float]:
    """Priors and positive priors of an image, by laying and assigning them for some images."""
    with_boxes = np.unique(table.image)
    if not len(with_boxes):
        return 0.0, 0.0
    some = np.random.default_rng(seed).permutation(with_boxes)[:ASSIGNED_IMAGES]
    model, k = experiment.model, len(annotations.categories)
    generator = model.anchors.build(level_strides(experiment))
    assigner = model.assigner.build(k)
    total, positive = [], []
    for image in some.tolist():
        rows = np.flatnonzero(table.image == image)
        height, width = table.hw[rows[0]].tolist()
        target = Target(
            torch.from_numpy(table.boxes[rows]).float(), torch.from_numpy(table.labels[rows])
        )
        priors = generator((height, width), torch.device("cpu"))
        positive.append(int(assigner(priors, (target,)).positives(k).sum()))
        total.append(len(priors.boxes))
    return float(np.mean(total)), float(np.mean(positive))
