"""Reading of untrusted text and JSON files, with limits on their size, and checks of paths."""

from __future__ import annotations

import codecs
import json
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from hyperfocal.types import ConfigError, DataError, HyperfocalError

MAX_TEXT = 16 << 20
"""Maximum bytes of a text file that describes one image or lists images."""

JSON_GROWTH = 10
"""Approximate bytes of memory per byte of a decoded annotation file."""

DATA_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"}
    | {".pgm", ".avif", ".jp2", ".mpo", ".txt", ".xml", ".csv", ".yaml", ".yml"}
)
"""File extensions of images and annotations."""

MAX_DIGITS = 18
"""Of a whole number that is written as text."""

MAX_SHOWN = 60
"""Maximum characters of an invalid value in a message."""


def shown(value: object) -> str:
    """``repr`` of a value for a message: one short line."""
    if isinstance(value, str | bytes):
        value = value[: 4 * MAX_SHOWN]
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer with too many digits
        return f"a {type(value).__name__} that can't be shown"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def read_text(path: Path, most: int = MAX_TEXT, error: type[HyperfocalError] = DataError) -> str:
    """A text file in UTF-8, or in UTF-16 with a byte order mark.

    Args:
        path: the file.
        most: maximum size in bytes.
        error: class of the error to raise.

    Raises:
        HyperfocalError: of class ``error``: too large, unreadable or not UTF-8 or UTF-16. A
            missing file is a `FileNotFoundError`, so that the caller can report what it was looking
            for.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as reason:
        raise error(f"{path}: not readable ({reason})") from None
    if len(data) > most:
        raise error(f"{path}: more than {most:,} bytes, too large for a file of this kind")
    try:
        return data.decode(_encoding(data))
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not UTF-8 text, nor UTF-16 ({one_line(reason)})") from None


def open_text(path: Path) -> TextIO:
    """Open a text file like `read_text`, to read it piece by piece; line ends are kept.

    Reading raises `UnicodeError` if it isn't UTF-8 or UTF-16.
    """
    with path.open("rb") as file:
        encoding = _encoding(file.read(2))
    return path.open(encoding=encoding, newline="")


@contextmanager
def as_utf8(path: Path) -> Iterator[bytes | mmap.mmap]:
    """The content of a text file as UTF-8, to search it without decoding it.

    A file in UTF-8 isn't loaded into memory; one in UTF-16 is empty if it doesn't fit.

    Raises:
        ValueError: the file is empty, or isn't UTF-16 despite its byte order mark.
        OSError: it can't be read.
    """
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if (encoding := _encoding(content[:2])) == "utf-16":
            fits = len(content) * JSON_GROWTH <= physical_memory()
            yield bytes(content).decode(encoding).encode() if fits else b""
        else:
            yield content


def is_utf16(path: Path) -> bool:
    """Whether a file begins with the byte order mark of UTF-16, as some Windows tools write it."""
    with path.open("rb") as file:
        return _encoding(file.read(2)) == "utf-16"


def _encoding(start: bytes) -> str:
    """The encoding of a text file by its first two bytes."""
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return "utf-16" if start.startswith(marks) else "utf-8-sig"


def load_json(path: Path, error: type[HyperfocalError] = DataError) -> Any:
    """Decode a JSON file, if the file and its decoded content fit into memory.

    Raises:
        HyperfocalError: of class ``error``: too large, nested too deeply or not JSON. A missing
            file is a `FileNotFoundError`.
    """
    try:
        size = path.stat().st_size
        if size * JSON_GROWTH > physical_memory():
            raise error(
                f"{path}: {size / 2**30:.1f} GiB of JSON take about {JSON_GROWTH} times as much "
                f"memory, but this machine has {physical_memory() / 2**30:.1f} GiB; split the file"
            )
        with open_text(path) as file:
            return json.load(file)
    except FileNotFoundError:
        raise
    except RecursionError:
        raise error(f"{path}: not readable as JSON (nested too deeply)") from None
    except (ValueError, OSError) as reason:
        raise error(f"{path}: not readable as JSON ({one_line(reason)})") from None


def check_folder(path: Path, option: str) -> None:
    """Check that a path is a folder or can be created as one.

    Raises:
        ConfigError: the path, or one of its parents, is a file.
    """
    for place in (path, *path.parents):
        if is_folder(place):
            return
        if place.exists():
            raise ConfigError(f"{option} {path}: {place} is a file, but it must be a folder")


def check_outputs(option: str, outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Check that no output overwrites an input; call this before writing anything.

    The comparison is by file, not by name: it resolves symbolic and hard links, ``..`` and, on
    case-insensitive file systems, case. If an input is a folder, the images and annotations in it
    are inputs too.

    Args:
        option: name of the outputs in the error message, such as ``--json``.
        outputs: files to be written; those that don't exist yet are skipped.
        inputs: files and folders to be read; Nones are skipped.

    Raises:
        ConfigError: an output is an input.
    """
    there = {key: path for path in outputs if (key := _identity(path)) is not None}
    data = [path for path in there.values() if path.suffix.lower() in DATA_SUFFIXES]
    for path in inputs if there else ():
        key = None if path is None else _identity(path)
        if path is None or key is None:
            continue
        if key in there:
            raise ConfigError(_over(option, there[key], path))
        if key.is_folder:
            for output in data:
                if any(_identity(folder) == key for folder in _above(output)):
                    raise ConfigError(_over(option, output, path))


def check_apart(option: str, folders: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Check that no input is in a folder whose content will be replaced.

    Args:
        option: name of the folders in the error message.
        folders: folders whose content will be replaced.
        inputs: files and folders to be read; Nones are skipped.

    Raises:
        ConfigError: an input is one of the folders or inside one.
    """
    keys = {key: folder for folder in folders if (key := _identity(folder)) is not None}
    seen: set[Path] = set()
    for path in inputs if keys else ():
        if path is None or path.parent in seen:
            continue
        if not is_folder(path):
            seen.add(path.parent)
        for place in (path, *_above(path)):
            key = _identity(place)
            if key in keys:
                raise ConfigError(_over(option, keys[key], path))


def _over(option: str, output: Path, path: Path) -> str:
    return f"{option}: {output} would overwrite an input ({path}); choose another path"


class _Identity(NamedTuple):
    """Identity of a file or folder, independent of its name."""

    device: int
    number: int
    is_folder: bool


def _identity(path: Path) -> _Identity | None:
    """Identity of the file or folder at a path; None if it doesn't exist."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return _Identity(found.st_dev, found.st_ino, stat.S_ISDIR(found.st_mode))


def _above(path: Path) -> Sequence[Path]:
    """The parent folders of a file, with links resolved."""
    try:
        return path.resolve().parents
    except (OSError, RuntimeError, ValueError):
        return path.absolute().parents


def whole_number(value: object) -> int | None:
    """A whole number as JSON from other tools has it: 1, 1.0 (pandas) or "1"; True is none."""
    if type(value) is str and len(value) <= MAX_DIGITS and value.strip().isdecimal():
        return int(value)
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    return None


def is_file(path: Path) -> bool:
    """Whether the file exists; False for invalid paths."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # pathlib raises for some invalid paths, such as too long names
        return False


def is_folder(path: Path) -> bool:
    """Whether the folder exists; False for invalid paths."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def physical_memory() -> int:
    """Bytes of memory of this machine; a terabyte if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 40


def one_line(text: object, most: int = 200) -> str:
    """Text for a message: one line, with the middle omitted if it is long."""
    line = " ".join(str(text).split())
    half = (most - 5) // 2
    return line if len(line) <= most else f"{line[:half]} ... {line[-half:]}"
