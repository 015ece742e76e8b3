"""Search for image files whose names in the annotations differ from those on disk.

Tools write names with Windows' separators, percent-encoded, in another Unicode form or case, as
absolute paths, or with the image folder as a prefix. `find_files` handles this for all formats.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from hyperfocal.data.formats.raw import Problems, RawAnnotations, RawImage, inside
from hyperfocal.files import is_file, is_folder, shown

IGNORED_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
"""Folders that operating systems leave behind, with copies or thumbnails of images."""

CASE = "upper and lower case or the Unicode form of the name differ"
FOLDERS = "the name begins with folders that don't belong to it"


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file below ``folder`` is hidden: its name, or that of a folder in its path, begins
    with a dot."""
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part in IGNORED_FOLDERS for part in parts)


def visible_files(folder: Path, suffixes: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """Files with one of the (lower case) suffixes below a folder, and those that are hidden.

    Names that begin with a dot are hidden, such as ``.ipynb_checkpoints/a.jpg`` or ``._a.jpg``, and
    the folders of `IGNORED_FOLDERS`. Both lists are sorted.
    """
    wanted = frozenset(suffixes)
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in wanted)
    hidden = [file for file in found if is_hidden(file, folder)]
    left_out = set(hidden)
    return [file for file in found if file not in left_out], hidden


def warn_of_hidden(
    hidden: Sequence[Path], problems: Problems, things: str = "image images"
) -> None:
    """Warn about files that were left out because they are hidden."""
    problems.warn(
        len(hidden),
        things,
        "left out because their names, or their folders', are hidden (begin with a dot)",
        str(hidden[0]) if hidden else "",
    )


class FileNames:
    """Lookup of files by names that differ in case or Unicode form.

    A folder is listed once, when a name in it is first looked up.
    """

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """The file ``name`` below ``folder``; None if there is no such file, or several."""
        if (path := inside(folder, name)) is None:
            return None
        if is_file(path):
            return path
        place = folder
        for part in path.relative_to(folder).parts:
            matches = self._names(place).get(_key(part), [])
            exact = part in matches
            if not exact and len(matches) != 1:
                return None
            place = place / (part if exact else matches[0])
        return place if is_file(place) else None

    def with_other_suffix(self, path: Path) -> str | None:
        """Name of a file in the folder of ``path`` that differs only in its suffix, or None."""
        stem = _key(path.stem)
        names = [name for group in self._names(path.parent).values() for name in group]
        return min((name for name in names if _key(Path(name).stem) == stem), default=None)

    def _names(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._listed:
            names: dict[str, list[str]] = defaultdict(list)
            try:
                entries = sorted(os.listdir(folder))
            except (OSError, ValueError):
                entries = []
            for entry in entries:
                names[_key(entry)].append(entry)
            self._listed[folder] = names
        return self._listed[folder]


def holds_any(folder: Path, names: Iterable[str]) -> bool:
    """Whether the folder contains a file with one of the annotated names, in any spelling."""
    files = FileNames()
    return any(
        files.find(folder, other) is not None for name in names for _, other in _spellings(name)
    )


def with_files(raw: RawAnnotations, problems: Problems) -> RawAnnotations:
    """The annotations with the images of `find_files`."""
    return replace(raw, images=find_files(raw.images, problems))


def find_files(images: Sequence[RawImage], problems: Problems) -> list[RawImage]:
    """The images, with the paths of their files on disk.

    Only images whose annotated path doesn't exist are looked up, and only in their image folder.
    Leading folders of a name are dropped if the path of the image folder ends with them; or if all
    images have them, none is found with them, and no folder with this name exists next to the image
    folder. A file that belongs to another image is never used. Images that aren't found are
    returned unchanged.

    Args:
        images: the images, with their annotated paths.
        problems: collects one warning per kind of difference, with their number.
    """
    files = FileNames()
    found = {n: ("", image.path) for n, image in enumerate(images) if is_file(image.path)}
    missing: dict[Path, list[int]] = defaultdict(list)
    for n, image in enumerate(images):
        if n not in found and image.folder is not None:
            missing[image.folder].append(n)
    for folder, places in missing.items():
        for n in places:
            for how, name in _spellings(images[n].name):
                if (path := _below_own_folders(files, folder, name)) is not None:
                    dropped, place = path
                    found[n] = FOLDERS if dropped else how or CASE, place
                    break
        every = sum(image.folder == folder for image in images)
        if len(places) == every and not any(n in found for n in places):
            found |= _without_common_folders(files, folder, images, places)
    return _with_files(images, found, problems)


def _below_own_folders(files: FileNames, folder: Path, name: str) -> tuple[bool, Path] | None:
    """The file for a name that may begin with the last folders of the image folder's path."""
    if (path := files.find(folder, name)) is not None:
        return False, path
    own, parts = folder.absolute().parts, PurePosixPath(name).parts
    for n in range(1, len(parts)):
        if tuple(map(_key, own[-n:])) == tuple(map(_key, parts[:n])):
            path = files.find(folder, "/".join(parts[n:]))
            if path is not None:
                return True, path
    return None


def _without_common_folders(
    files: FileNames, folder: Path, images: Sequence[RawImage], places: Sequence[int]
) -> dict[int, tuple[str, Path]]:
    """Files for images whose names all begin with the same folders, which don't exist."""
    names = [unquote(images[n].name.replace("\\", "/")) for n in places]
    levels = zip(*(PurePosixPath(name).parts[:-1] for name in names), strict=False)
    shared = list(itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    if not shared or is_folder(folder.parent / shared[0][0]):
        return {}
    for count in range(len(shared), 0, -1):
        found = {}
        for n, name in zip(places, names, strict=True):
            path = files.find(folder, "/".join(PurePosixPath(name).parts[count:]))
            if path is not None:
                found[n] = FOLDERS, path
        if found:
            return found
    return {}


def _with_files(
    images: Sequence[RawImage], found: dict[int, tuple[str, Path]], problems: Problems
) -> list[RawImage]:
    """The images with the files that were found, except files that belong to another image."""
    owners: dict[Path, set[str]] = defaultdict(set)
    for n, (_, path) in found.items():
        owners[path].add(images[n].name)
    changed: dict[str, list[str]] = defaultdict(list)
    result = list(images)
    for n, (how, path) in sorted(found.items()):
        image = images[n]
        if path == image.path or image.folder is None or len(owners[path]) > 1:
            continue
        name = path.relative_to(image.folder).as_posix()
        changed[how].append(f"{shown(image.name)} is {shown(name)} on the disk")
        result[n] = replace(image, name=name, path=path)
    for how, cases in changed.items():
        problems.warn(len(cases), "image images", f"found although {how}", cases[0])
    return result


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _spellings(name: str) -> Iterator[tuple[str, str]]:
    """A name and its other spellings, each with a description of the difference ("": none)."""
    yield "", name
    slashes = name.replace("\\", "/")
    if slashes != name:
        yield "the name has Windows' separators", slashes
    decoded = unquote(slashes)
    if decoded != slashes:
        yield "the name is percent-encoded", decoded
