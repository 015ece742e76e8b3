"""Limits on the number of detections, with warnings where they lower AP."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from hyperfocal.experiment import EvaluationConfig
from hyperfocal.files import shown
from hyperfocal.types import AnnotationSet, Detections, HyperfocalWarning

HOW = "--max-detections N sets the limit of detector and evaluator"

EACH = {"image": "image", "category": "image and category"}
"""What a limit applies to, in words."""


def warn_of_limits(
    annotations: AnnotationSet, config: EvaluationConfig, detector_most: int | None = None
) -> None:
    """A `HyperfocalWarning` if images have more boxes than a limit on detections.

    Args:
        annotations: ground truth of a split.
        config: the protocol and its limit.
        detector_most: maximum detections per image of the detector; None: unknown.
    """
    k, limit = len(annotations.categories), config.limit
    crowded: list[tuple[int, str]] = []
    full: list[tuple[int, int]] = []
    for record in annotations.images:
        labels = record.labels[~record.crowd]
        if detector_most is not None and len(labels) > detector_most:
            full.append((len(labels), record.id))
        if limit is None or len(labels) <= limit:
            continue
        counts = np.bincount(labels, minlength=k)
        if config.protocol.limit_of == "image":
            crowded.append((len(labels), f"image id {record.id}"))
        elif counts.max() > limit:
            name = shown(annotations.categories[int(counts.argmax())].name)
            crowded.append((int(counts.max()), f"{name} in image id {record.id}"))
    if crowded:
        each = EACH[config.protocol.limit_of]
        count, where = max(crowded)
        _warn(
            annotations,
            f"{len(crowded)} of {len(annotations.images)} images have more boxes than the {limit} "
            f"detections per {each} that are evaluated ({count} of {where}), so AP can't reach 1. "
            f"{HOW}",
        )
    if full:
        count, image_id = max(full)
        _warn(
            annotations,
            f"{len(full)} of {len(annotations.images)} images have more boxes than the "
            f"{detector_most} detections per image of the detector ({count} in image id "
            f"{image_id}), so AP can't reach 1. {HOW}",
        )


def warn_of_cut(
    found: Mapping[int, Detections], annotations: AnnotationSet, config: EvaluationConfig
) -> None:
    """A `HyperfocalWarning` with the number of detections beyond the protocol's limit."""
    limit, k = config.limit, len(annotations.categories)
    if limit is None:
        return
    cut = total = 0
    for one in found.values():
        total += len(one)
        if len(one) > limit:
            by_category = np.bincount(one.labels.numpy(), minlength=k)
            whole = config.protocol.limit_of == "image"
            counts = np.array([len(one)]) if whole else by_category
            cut += int((counts - limit).clip(min=0).sum())
    if cut:
        each = EACH[config.protocol.limit_of]
        _warn(
            annotations,
            f"{cut} of {total} detections exceed the limit of {limit} per {each} and are ignored. "
            f"{HOW}",
        )


def _warn(annotations: AnnotationSet, text: str) -> None:
    warnings.warn(f"{annotations.source}: {text}", HyperfocalWarning, stacklevel=3)
