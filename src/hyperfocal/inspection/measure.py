"""Statistics for advice: counts, sizes and the class imbalance in a detector's head."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from hyperfocal.evaluation import FrequencyGroups
from hyperfocal.experiment import Experiment
from hyperfocal.inspection.anchors import BoxTable, Fit, level_strides, resized_boxes
from hyperfocal.models import as_dense
from hyperfocal.types import AnnotationSet, CategoryCounts, Target

ASSIGNED_IMAGES = 32
"""Number of images on which positives are counted with the recipe's own assigner."""


@dataclass(frozen=True)
class Measurements:
    """Statistics of a training split.

    Attributes:
        categories: K.
        images: in the split.
        boxes: without crowds.
        counts: per category.
        groups: frequency group of each category, None without training images.
        frequent: name of the most frequent group.
        ratio: training images of the most frequent category over those of the rarest (of those
            that occur).
        native_short: median length of the shorter side of an image, in pixels.
        table: the boxes in the network's input.
        fit: of the recipe's anchors; see `measure_fit`.
        priors: anchors or locations per image, on average; see `with_imbalance`.
        positives: mean number of priors assigned to an object, in images with boxes.
    """

    categories: int
    images: int
    boxes: int
    counts: CategoryCounts
    groups: tuple[str | None, ...]
    frequent: str
    ratio: float
    native_short: float
    table: BoxTable
    fit: Fit | None
    priors: float = 0.0
    positives: float = 0.0

    @property
    def scarce(self) -> int:
        """Number of categories that occur, but aren't in the most frequent group."""
        return sum(g is not None and g != self.frequent for g in self.groups)

    def in_group(self, group: str) -> int:
        """Number of categories in a frequency group."""
        return sum(g == group for g in self.groups)


def measure(experiment: Experiment, annotations: AnnotationSet, fit: Fit | None) -> Measurements:
    """Compute the statistics of a training split under an experiment's transforms."""
    counts = annotations.counts()
    present = [n for n in counts.images if n > 0]
    data = experiment.data
    table = fit.table if fit else resized_boxes(annotations, data.train_transform, data.divisor)
    groups: FrequencyGroups = experiment.evaluation.groups
    return Measurements(
        categories=len(annotations.categories),
        images=len(annotations.images),
        boxes=sum(counts.instances),
        counts=counts,
        groups=groups.assign(counts),
        frequent=groups.names[-1],
        ratio=max(present) / min(present) if present else 1.0,
        native_short=float(np.median([min(r.height, r.width) for r in annotations.images])),
        table=table,
        fit=fit,
    )


def with_imbalance(experiment: Experiment, measured: Measurements, seed: int = 0) -> Measurements:
    """Count priors and positives, by assigning the priors of some images."""
    table = measured.table
    with_boxes = np.unique(table.image)
    if not len(with_boxes):
        return measured
    some = np.random.default_rng(seed).permutation(with_boxes)[:ASSIGNED_IMAGES]
    model, k = as_dense(experiment.model), measured.categories
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
    return dataclasses.replace(
        measured, priors=float(np.mean(total)), positives=float(np.mean(positive))
    )
