"""Search for image files with identical content."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from hyperfocal.data.image_checks import in_threads

BEGINNING = 4096
"""Bytes that are compared before a file is read to its end."""


def identical_files(paths: Sequence[Path]) -> list[list[Path]]:
    """Groups of different paths with the same bytes.

    Only files of equal size are opened, and only those that begin with the same bytes are read
    completely. Unreadable files are ignored.
    """
    groups = [list(dict.fromkeys(paths))]
    for key in (_size, _beginning, _digest):
        groups = [part for group in groups for part in _apart(group, key)]
    return groups


def files_in_both(first: Sequence[Path], second: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs of one path from each side that are the same file or have the same bytes."""
    of_first, of_second = set(first), set(second)
    pairs = [(path, path) for path in second if path in of_first]
    for group in identical_files([*first, *second]):
        one = next((path for path in group if path in of_first), None)
        others = (path for path in group if path in of_second and path not in of_first)
        pairs += [(one, path) for path in others if one is not None]
    return pairs


def _apart(paths: Sequence[Path], key: Callable[[Path], Hashable | None]) -> list[list[Path]]:
    """Paths with a common key, at least two each."""
    found: dict[Hashable, list[Path]] = defaultdict(list)
    for path, value in zip(paths, in_threads(key, paths, 8), strict=True):
        if value is not None:
            found[value].append(path)
    return [group for group in found.values() if len(group) > 1]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _beginning(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.blake2b(file.read(BEGINNING), digest_size=16).digest()
    except OSError:
        return None


def _digest(path: Path) -> bytes | None:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
