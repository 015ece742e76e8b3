"""Matching of the file names in a results file with annotated images."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath, PureWindowsPath

from hyperfocal.files import shown
from hyperfocal.types import AnnotationSet, DataError


def match_file_names(names: Iterable[str], annotations: AnnotationSet) -> dict[str, int]:
    """Image ids by the names in a results file, without names that match no image.

    A name matches an image if its last part is the image's file name, with or without extension
    (some tools write the stem). If several images have this file name, the one with the longest
    common end of the path is used, if it is unique. The comparison ignores case, the Unicode
    normalisation form and the kind of path separator.

    Raises:
        DataError: a name matches several images equally well, or two names match one image.
    """
    by_last: dict[str, list[tuple[int, tuple[str, ...]]]] = defaultdict(list)
    for record in annotations.images:
        parts = _parts(str(record.path))
        for last in {parts[-1], _stem(parts[-1])}:
            by_last[last].append((record.id, parts))
    fits: dict[str, tuple[int, int]] = {}
    for name in dict.fromkeys(names):
        parts = _parts(name)
        if not parts or parts[-1] not in by_last:
            continue
        common = [(_common(parts, other), image_id) for image_id, other in by_last[parts[-1]]]
        most = max(length for length, _ in common)
        best = [image_id for length, image_id in common if length == most]
        if len(best) > 1:
            raise DataError(
                f"file {shown(name)} matches {len(best)} images of {annotations.source}, such as "
                f"ids {best[0]} and {best[1]}; write a longer path, or image_id"
            )
        fits[name] = (most, best[0])
    return _one_name_each(fits, annotations)


def _one_name_each(fits: dict[str, tuple[int, int]], annotations: AnnotationSet) -> dict[str, int]:
    """Of several names for one image, the one with the longest matching path."""
    by_image: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for name, (length, image_id) in fits.items():
        by_image[image_id].append((length, name))
    found = {}
    for image_id, named in by_image.items():
        most = max(length for length, _ in named)
        best = [name for length, name in named if length == most]
        if len(best) > 1:
            raise DataError(
                f"files {shown(best[0])} and {shown(best[1])} both match image id {image_id} of "
                f"{annotations.source}; write longer paths, or image_id"
            )
        found[best[0]] = image_id
    return found


def _parts(name: str) -> tuple[str, ...]:
    text = unicodedata.normalize("NFC", name).casefold()
    path = PureWindowsPath(text) if "\\" in text else PurePath(text)
    return tuple(part for part in path.parts if part not in ("/", "\\", "."))


def _stem(name: str) -> str:
    return PurePath(name).stem


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Number of parts that two paths have in common, from the end, without file extensions."""
    length = 0
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other and (length or _stem(other) != one):
            break
        length += 1
    return length
