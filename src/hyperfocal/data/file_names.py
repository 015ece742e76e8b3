"""Image files whose names are written differently in the annotations than on the disk.

Tools write names with Windows' separators, percent-encoded, in another Unicode form, with another
case, as absolute paths or with the image folder in front. Every reader's images go through here, so
that such names are treated alike in all formats.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from hyperfocal.data.raw import Problems, RawImage, inside
from hyperfocal.files import is_file, shown

MOST_FILES = 2_000_000
"""Files of an image folder that are searched for names that differ in case or Unicode form."""

IGNORED_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
"""Folders that operating systems leave behind, with copies or thumbnails of images."""


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file below ``folder`` is hidden: a name on the way to it begins with a dot."""
    parts = path.relative_to(folder).parts
    return any(part.startswith(".") or part in IGNORED_FOLDERS for part in parts)


def visible_files(folder: Path, suffixes: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """Files with one of the (lower case) suffixes below a folder, and those that are hidden.

    Hidden are names that begin with a dot, such as ``.ipynb_checkpoints/a.jpg`` or ``._a.jpg``, and
    the folders of `IGNORED_FOLDERS`. Both lists are sorted.
    """
    wanted = frozenset(suffixes)
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in wanted)
    hidden = [file for file in found if is_hidden(file, folder)]
    left_out = set(hidden)
    return [file for file in found if file not in left_out], hidden


def warn_of_hidden(hidden: Sequence[Path], problems: Problems) -> None:
    """Note files that were left out because they are hidden."""
    problems.warn(
        len(hidden),
        "image images",
        "left out because their names, or their folders', are hidden (begin with a dot)",
        str(hidden[0]) if hidden else "",
    )


def find_files(images: Sequence[RawImage], problems: Problems) -> list[RawImage]:
    """The images, with the path of the file on disk where its name is written differently.

    Only images whose file doesn't exist are looked for, and only inside their image folder. A name
    that fits several files fits none. Images that aren't found are returned as they are.

    Args:
        images: with the paths that their annotated names give.
        problems: gets one counted warning for each kind of difference.
    """
    folders: dict[Path, _Folder] = {}
    changed: dict[str, list[str]] = defaultdict(list)
    found = []
    for image in images:
        if is_file(image.path) or (folder := _image_folder(image)) is None:
            found.append(image)
            continue
        how, path = folders.setdefault(folder, _Folder(folder)).find(image.name)
        if path is None:
            found.append(image)
            continue
        name = path.relative_to(folder).as_posix()
        changed[how].append(f"{shown(image.name)} is {shown(name)} on the disk")
        found.append(replace(image, name=name, path=path))
    for how, cases in changed.items():
        problems.warn(len(cases), "image images", f"found although {how}", cases[0])
    return found


def near_name(image: RawImage) -> str | None:
    """The name of a file that may be meant by an image whose file doesn't exist, or None."""
    if (folder := _image_folder(image)) is None:
        return None
    wanted = Path(image.path)
    try:
        same = sorted(
            f.name for f in wanted.parent.iterdir() if f.stem.lower() == wanted.stem.lower()
        )
    except OSError:
        return None
    return same[0] if same and folder else None


def _image_folder(image: RawImage) -> Path | None:
    """The folder that an image's name is relative to; None if its path isn't made from the name."""
    depth = len(PurePosixPath(image.name).parts)
    folder = image.path
    for _ in range(depth):
        folder = folder.parent
    return folder if depth and folder / image.name == image.path else None


class _Folder:
    """Looks for files in an image folder by names that are nearly theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index: dict[str, list[Path]] | None = None

    def find(self, name: str) -> tuple[str, Path | None]:
        """How the name differs, and the file; None without a single match."""
        for how, other in _spellings(name, self.folder):
            path = inside(self.folder, other)
            if path is not None and is_file(path):
                return how, path
        candidates = dict.fromkeys([name, *(other for _, other in _spellings(name, self.folder))])
        for other in candidates:
            matches = self._index().get(_key(other), [])
            if len(matches) == 1:
                return "upper and lower case or the Unicode form of the name differ", matches[0]
        return "", None

    def _index(self) -> dict[str, list[Path]]:
        if self.index is None:
            self.index = defaultdict(list)
            for path in _walk(self.folder):
                self.index[_key(path.relative_to(self.folder).as_posix())].append(path)
        return self.index


def _walk(folder: Path) -> Iterator[Path]:
    count = 0
    for root, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in IGNORED_FOLDERS]
        for name in files:
            count += 1
            if count > MOST_FILES:
                return
            yield Path(root, name)


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _spellings(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Other ways to read a name: what is different about it, and the name."""
    slashes = name.replace("\\", "/")
    if slashes != name:
        yield "the name has Windows' separators", slashes
    decoded = unquote(slashes)
    if decoded != slashes:
        yield "the name is percent-encoded", decoded
    for base in dict.fromkeys((name, slashes, decoded)):
        for form in ("NFC", "NFD"):
            normal = unicodedata.normalize(form, base)
            if normal != base:
                yield "the Unicode form of the name differs", normal
        parts = PurePosixPath(base).parts
        for n in range(1, len(parts)):
            yield "the name begins with folders that don't belong to it", "/".join(parts[n:])
