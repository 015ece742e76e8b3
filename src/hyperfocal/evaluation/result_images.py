"""Which annotated image a detection belongs to, where results name the image's file."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath, PureWindowsPath

from hyperfocal.files import shown
from hyperfocal.types import AnnotationSet, DataError


def match_file_names(names: Iterable[str], annotations: AnnotationSet) -> dict[str, int]:
    """Image ids by the names in a results file; names that fit no image are left out.

    A name fits an image if its last part is the image's file name, with or without suffix (some
    tools write the stem). Where several images have that file name the folders decide: the image
    with the longest end of its path in common, if there is just one. Upper and lower case, the
    Unicode form and Windows' separators don't matter.

    Raises:
        DataError: a name fits several images equally well, or two names one image.
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
                f"file {shown(name)} fits {len(best)} images of {annotations.source}, such as ids "
                f"{best[0]} and {best[1]}; give more of its path, or image_id"
            )
        fits[name] = (most, best[0])
    return _one_name_each(fits, annotations)


def _one_name_each(fits: dict[str, tuple[int, int]], annotations: AnnotationSet) -> dict[str, int]:
    """Of several names for one image, the one with most of its path."""
    by_image: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for name, (length, image_id) in fits.items():
        by_image[image_id].append((length, name))
    found = {}
    for image_id, named in by_image.items():
        most = max(length for length, _ in named)
        best = [name for length, name in named if length == most]
        if len(best) > 1:
            raise DataError(
                f"files {shown(best[0])} and {shown(best[1])} both fit image id {image_id} of "
                f"{annotations.source}; give more of their paths, or image_id"
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
    """How many parts two paths have in common, from the end; suffixes of files aside."""
    length = 0
    for one, other in zip(reversed(a), reversed(b), strict=False):
        if one != other and (length or _stem(other) != one):
            break
        length += 1
    return length
