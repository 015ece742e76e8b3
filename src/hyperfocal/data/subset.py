"""Annotations restricted to some of their categories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hyperfocal.config import did_you_mean
from hyperfocal.data.formats.lvis import with_labels
from hyperfocal.data.formats.openimages_split import relabelled
from hyperfocal.files import shown
from hyperfocal.types import (
    AnnotationSet,
    ConfigError,
    DataError,
    ImageRecord,
    ImageSource,
    Sample,
    Target,
)


def only_categories(annotations: AnnotationSet, names: Sequence[str]) -> AnnotationSet:
    """The annotations with some of their categories, relabelled ``0..len(names)-1``.

    All images are kept. Objects of other categories lose their boxes and count as background, as in
    a file that doesn't annotate them.

    Args:
        annotations: an annotated split.
        names: names of the categories, in any order; labels keep the order of the file. A name that
            several categories have selects all of them. Empty: all categories.

    Raises:
        ConfigError: a name that no category has, or a repeated name.
        DataError: none of the categories has a box.

    Examples:
        >>> import hyperfocal
        >>> from hyperfocal.data import only_categories
        >>> split = hyperfocal.read_annotations("train.json", "train")
        >>> name = split.categories[1].name
        >>> [category.name == name for category in only_categories(split, [name]).categories]
        [True]
    """
    if not names:
        return annotations
    known = {category.name for category in annotations.categories}
    for name, count in Counter(names).items():
        if name not in known:
            raise ConfigError(
                f"data.categories: {annotations.source} has no category {shown(name)} "
                f"({did_you_mean(name, sorted(known))})"
            )
        if count > 1:
            raise ConfigError(f"data.categories: {shown(name)} is listed {count} times")
    kept = [n for n, category in enumerate(annotations.categories) if category.name in set(names)]
    new = np.full(len(annotations.categories), -1)
    new[kept] = np.arange(len(kept))
    images = tuple(_selected(record, new) for record in annotations.images)
    if not any((~record.crowd).any() for record in images):
        raise DataError(
            f"{annotations.source}: no boxes of the categories {', '.join(map(shown, names))}; "
            "choose others with --data.categories"
        )
    label_of = {old: label for label, old in enumerate(kept)}
    federated, lists = annotations.federated, annotations.openimages
    if lists is not None:
        every = range(len(annotations.categories))
        lists = relabelled(lists, [label_of.get(old) for old in every], len(kept))
    return AnnotationSet(
        annotations.source,
        tuple(annotations.categories[old] for old in kept),
        images,
        None if federated is None else with_labels(federated, label_of, kept),
        lists,
    )


def _selected(record: ImageRecord, new: np.ndarray) -> ImageRecord:
    labels = new[record.labels]
    keep = labels >= 0
    return replace(
        record,
        boxes=record.boxes[keep],
        labels=labels[keep],
        crowd=record.crowd[keep],
        area=record.area[keep],
        xywh=None if record.xywh is None else record.xywh[keep],
        source=None if record.source is None else SelectedSource(record.source, record, new),
    )


@dataclass(frozen=True)
class SelectedSource:
    """`ImageSource` whose ground truth has some of the categories only.

    Attributes:
        source: the source of all categories.
        record: the image with the boxes of all categories.
        new: new label of each old one; -1: its boxes are dropped.
    """

    source: ImageSource
    record: ImageRecord
    new: np.ndarray

    def sample(self, record: ImageRecord, seed: int | None = None) -> Sample:
        """See `ImageSource.sample`."""
        whole = self.source.sample(self.record, seed)
        labels = torch.from_numpy(self.new)[whole.target.labels]
        keep = labels >= 0
        return replace(whole, target=Target(whole.target.boxes[keep], labels[keep]))
