"""Data arguments of the Python interface: paths of files, or objects in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperfocal.types import AnnotationSet, Category, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

Data = Any
"""A pair ``(annotations, images)`` of paths, the path of annotations alone, an `AnnotationSet`, a
``supervision.DetectionDataset``, or a map-style torch Dataset; see
`hyperfocal.data.annotations_of`."""


class Files(NamedTuple):
    """Annotations and images on disk.

    Attributes:
        annotations: file or folder.
        images: image folder; None: as stated in the annotations.
    """

    annotations: Path
    images: Path | None


def as_files(data: Data, argument: str) -> Files | None:
    """The files that ``data`` names; None if it is an object in memory.

    Raises:
        ConfigError: a tuple of paths that isn't ``(annotations, images)``.
    """
    if isinstance(data, str | os.PathLike):
        return Files(Path(data), None)
    if not isinstance(data, tuple) or not all(
        part is None or isinstance(part, str | os.PathLike) for part in data
    ):
        return None
    if len(data) != 2 or data[0] is None:
        raise ConfigError(f"{argument} = {data!r}: expected (annotations, images)")
    return Files(Path(data[0]), None if data[1] is None else Path(data[1]))


def in_memory(
    data: Data,
    argument: str,
    categories: Sequence[str] | None,
    known: Sequence[Category] | None,
    console: Console,
) -> AnnotationSet:
    """The `AnnotationSet` of an object in memory, with a progress bar while targets are read."""
    from hyperfocal.data import annotations_of

    total = len(data) if hasattr(data, "__len__") else 0
    with bar(console, f"read {argument}", total) as advance:
        split = "train" if argument == "train" else "val"
        return annotations_of(data, categories, split=split, known=known, advance=advance)  # type: ignore[arg-type]


@contextmanager
def bar(
    console: Console, label: str, total: int, unit: str = "images"
) -> Iterator[Callable[[int], None]]:
    """A progress bar that disappears when the work is done."""
    from hyperfocal.progress import ProgressBar

    with ProgressBar(console, label, total, unit, enabled=total > 0, transient=True) as progress:
        yield progress.advance
