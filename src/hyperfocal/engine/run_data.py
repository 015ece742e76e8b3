"""Record of the data that a run was trained on, with which ``--resume`` detects changes.

``data.json`` has one short digest per image, of its size, boxes and labels, not of its pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hyperfocal.engine.splits import Splits
from hyperfocal.files import shown
from hyperfocal.types import AnnotationSet, Category, CategoryCounts, ConfigError, ImageRecord

MOST_NAMED = 5
"""Maximum number of categories named in a message."""


@dataclass(frozen=True)
class RunData:
    """Digests of the annotations of each image of a run's splits, by file name and in order.

    Attributes:
        train: of the training split.
        val: of the validation split; None without one.
    """

    train: Mapping[str, str]
    val: Mapping[str, str] | None

    @classmethod
    def of(cls, splits: Splits) -> RunData:
        """The record of the data in ``splits``."""
        val = splits.val
        return cls(_digests(splits.train), None if val is None else _digests(val))

    def as_json(self) -> dict[str, Any]:
        """As JSON-serializable values."""
        return {"train": dict(self.train), "val": None if self.val is None else dict(self.val)}

    @classmethod
    def from_json(cls, data: Any, source: Path) -> RunData:
        """The inverse of `as_json`.

        Raises:
            ConfigError: ``data`` is something else.
        """
        try:
            train, val = data["train"], data["val"]
            made = cls(dict(train), None if val is None else dict(val))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{source}: not the record of a run's data ({error!r})") from None
        return made


def category_changes(before: Sequence[Category], now: Sequence[Category]) -> list[str]:
    """Differences between the categories of a run and those of its data now, by label.

    Raises:
        ConfigError: the numbers of categories differ, so the run's weights don't fit.
    """
    if len(before) != len(now):
        only = {"the run": _without(before, now), "the data": _without(now, before)}
        extra = "; ".join(f"only in {x}: {_names(names)}" for x, names in only.items() if names)
        raise ConfigError(
            f"the run has {len(before)} categories, the data has {len(now)}"
            + (f" ({extra})" if extra else "")
        )
    changes = [
        f"label {label}: {shown(new.name)} (id {new.id}) was {shown(old.name)} (id {old.id})"
        for label, (old, new) in enumerate(zip(before, now, strict=True))
        if old != new
    ]
    return _shortened(changes, "categories")


def count_changes(before: CategoryCounts, now: CategoryCounts) -> list[str]:
    """Differences between two training splits of which only the counts are known."""
    pairs = {
        "training images": (before.num_images, now.num_images),
        "training boxes": (sum(before.instances), sum(now.instances)),
    }
    changes = [f"{new} {what} (were {old})" for what, (old, new) in pairs.items() if old != new]
    if not changes and before != now:
        changes = ["different numbers of training images or boxes per category"]
    return changes


def image_changes(before: RunData, now: RunData, same_labels: bool) -> list[str]:
    """Differences between the images of two versions of the data.

    Args:
        before: as recorded.
        now: as read.
        same_labels: the categories are the same; otherwise labels and digests differ anyway.
    """
    changes = list(_split_changes("training", before.train, now.train, same_labels))
    if (before.val is None) != (now.val is None):
        changes.append(f"{'no' if now.val is None else 'a new'} validation split")
    if before.val is not None and now.val is not None:
        changes += _split_changes("validation", before.val, now.val, same_labels)
    return changes


def _split_changes(
    split: str, before: Mapping[str, str], now: Mapping[str, str], same_labels: bool
) -> Iterator[str]:
    new, gone = [n for n in now if n not in before], [n for n in before if n not in now]
    other = [n for n in now if n in before and now[n] != before[n]] if same_labels else []
    kinds = (
        (new, now, "new"),
        (gone, before, "missing"),
        (other, now, "with a different size or boxes"),
    )
    for names, among, what in kinds:
        if names:
            yield f"{len(names)} of {len(among)} {split} images {what}, such as {names[0]}"
    if not new and not gone and list(before) != list(now):
        yield f"{split} images in a different order"


def _digests(split: AnnotationSet) -> dict[str, str]:
    names = _file_names([record.path for record in split.images])
    return {name: _digest(record) for name, record in zip(names, split.images, strict=True)}


def _file_names(paths: Sequence[Path]) -> list[str]:
    """The files' names relative to their common folder, so that a dataset may be moved.

    A file that is listed several times is numbered.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names) and len(set(paths)) > 1:
        common = os.path.commonpath([path.parent for path in paths])
        names = [os.path.relpath(path, common) for path in paths]
    seen: Counter[str] = Counter()
    for n, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[n] = f"{name} ({seen[name]})"
    return names


def _digest(record: ImageRecord) -> str:
    found = hashlib.blake2b(digest_size=6)
    found.update(np.array([record.height, record.width], dtype=np.int64).tobytes())
    for values in (record.boxes, record.labels, record.crowd):
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def _without(some: Sequence[Category], others: Sequence[Category]) -> list[str]:
    names = {category.name for category in others}
    return [category.name for category in some if category.name not in names]


def _names(names: Sequence[str]) -> str:
    return ", ".join(_shortened([shown(name) for name in names], "categories"))


def _shortened(texts: Sequence[str], what: str) -> list[str]:
    rest = len(texts) - MOST_NAMED
    return [*islice(texts, MOST_NAMED), *([f"and {rest} more {what}"] if rest > 0 else [])]
