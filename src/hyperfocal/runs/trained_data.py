"""The data that a run was trained on: data.json, with which ``--resume`` detects changes.

The file has one short digest per image, of its size, boxes and labels, not of its pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hyperfocal.data.splits import Splits
from hyperfocal.types import AnnotationSet, ConfigError, ImageRecord


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
