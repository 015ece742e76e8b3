"""The package's components, found through their roles: a new one is tested without a change here.

A part that a component has beyond its role (a state, a quality) is recognised by the base class
that declares it.
"""

from __future__ import annotations

import pytest
from torch import nn

from hyperfocal.config import Config, kinds
from hyperfocal.losses import ClassificationLossConfig
from hyperfocal.models import DenseConfig, DetectorConfig
from hyperfocal.types import CategoryCounts

ALL_LOSSES = tuple(kinds(ClassificationLossConfig).values())
OWN_LOGITS = tuple(config for config in ALL_LOSSES if config().has_own_logits)
"""Losses for classifiers whose number of logits follows the loss."""
LOSSES = tuple(config for config in ALL_LOSSES if config not in OWN_LOGITS)
"""Losses of K sigmoids, which dense detectors use."""
DETECTORS = tuple(kinds(DetectorConfig).values())
DENSE = tuple(config for config in DETECTORS if issubclass(config, DenseConfig))
"""Detectors made of a dense head and its criterion."""

SMALL: dict[str, tuple[str, ...]] = {
    "faster_rcnn": (
        *("--model.neck.channels", "32", "--model.rpn.train-proposals", "60"),
        *("--model.roi-head.samples", "32", "--model.roi-head.fc-channels", "32"),
    ),
}
"""Flags by kind that make a detector small, besides a small backbone; dense ones have others."""


def kind_of(config: type[Config]) -> str:
    """The name of a test of one component."""
    return config.kind


each_loss = pytest.mark.parametrize("config", LOSSES, ids=kind_of)
each_detector = pytest.mark.parametrize("config", DETECTORS, ids=kind_of)
each_dense_detector = pytest.mark.parametrize("config", DENSE, ids=kind_of)


def small_flags(config: type[Config]) -> tuple[str, ...]:
    """Flags that choose a detector and make it small, besides its backbone."""
    small = ("--model.head.depth", "1") if config in DENSE else SMALL.get(config.kind, ())
    return ("--model", config.kind, *small)


def build_loss(config: type[ClassificationLossConfig], num_classes: int, **settings) -> nn.Module:
    """The loss for K categories, of which each later one is rarer in training."""
    images = tuple(100 // 4**n + 1 for n in range(num_classes))
    counts = CategoryCounts(images, tuple(2 * n for n in images), 200)
    return config(**settings).build(num_classes, counts)


def losses_with(base: type) -> list[type[ClassificationLossConfig]]:
    """The losses whose modules declare a capability by its base class."""
    return [config for config in LOSSES if isinstance(build_loss(config, 3), base)]
