"""Text and JSON from other people: bounded in size, executed never, one clear error for each."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hyperfocal.types import ConfigError, DataError, HyperfocalError

MAX_TEXT = 16 << 20
"""Bytes of a text file that describes one image, or lists images."""

JSON_GROWTH = 10
"""Bytes of memory that a byte of annotations takes once decoded, about."""

DATA_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm"}
    | {".pgm", ".avif", ".jp2", ".mpo", ".txt", ".xml", ".csv", ".yaml", ".yml"}
)
"""Endings of images and annotations."""

MAX_DIGITS = 18
"""Of a whole number that is written as text."""

MAX_SHOWN = 60
"""Characters of a bad value that a message repeats."""


def shown(value: object) -> str:
    """``repr`` of a value for a message: one line, and never long."""
    if isinstance(value, str | bytes):
        value = value[: 4 * MAX_SHOWN]
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer with too many digits
        return f"a {type(value).__name__} that can't be shown"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def read_text(path: Path, most: int = MAX_TEXT, error: type[HyperfocalError] = DataError) -> str:
    """A UTF-8 text file, with or without a byte order mark.

    Args:
        path: the file.
        most: bytes that it may have.
        error: what to raise.

    Raises:
        HyperfocalError: of class ``error``: too large, unreadable or not UTF-8. A missing file is
            a `FileNotFoundError`, for callers to tell what was looked for.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as reason:
        raise error(f"{path}: not readable ({reason})") from None
    if len(data) > most:
        raise error(f"{path}: more than {most:,} bytes, too large for what it should be")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not UTF-8 text ({reason})") from None


def load_json(path: Path, error: type[HyperfocalError] = DataError) -> Any:
    """Decode a JSON file, if it and what it becomes fit into memory.

    Raises:
        HyperfocalError: of class ``error``: too large, nested too deeply or not JSON. A missing
            file is a `FileNotFoundError`.
    """
    try:
        size = path.stat().st_size
        if size * JSON_GROWTH > physical_memory():
            raise error(
                f"{path}: {size / 2**30:.1f} GiB of JSON take about {JSON_GROWTH} times as much "
                f"memory, and this machine has {physical_memory() / 2**30:.1f} GiB; split the file"
            )
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError:
        raise
    except RecursionError:
        raise error(f"{path}: not readable as JSON (nested too deeply)") from None
    except (ValueError, OSError) as reason:
        raise error(f"{path}: not readable as JSON ({one_line(reason)})") from None


def check_folder(path: Path, option: str) -> None:
    """Make sure that a folder can be written to, or made, under this name.

    Raises:
        ConfigError: it, or what should hold it, is a file.
    """
    for place in (path, *path.parents):
        if is_folder(place):
            return
        if place.exists():
            raise ConfigError(f"{option} {path}: {place} is a file, but it must be a folder")


def check_outputs(option: str, outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Make sure that no output would be written over an input; to be called before any write.

    Files are compared, not their names: symbolic and hard links, ``..`` and, where the file system
    ignores it, upper and lower case make no difference. Of an input that is a folder, the images
    and annotations inside are inputs too.

    Args:
        option: names the outputs in the error, such as ``--json``.
        outputs: files that are going to be written; those that don't exist yet do no harm.
        inputs: files and folders that are read; None is passed over.

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
    """Make sure that no input lies in a folder whose content is going to be replaced.

    Args:
        option: names the folders in the error.
        folders: what is going to be replaced.
        inputs: files and folders that are read; None is passed over.

    Raises:
        ConfigError: an input does, or is such a folder.
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
    return f"{option}: {output} would be written over an input ({path}); choose another place"


class _Identity(NamedTuple):
    """What is the same for all names of a file or folder."""

    device: int
    number: int
    is_folder: bool


def _identity(path: Path) -> _Identity | None:
    """Which file or folder a path names; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return _Identity(found.st_dev, found.st_ino, stat.S_ISDIR(found.st_mode))


def _above(path: Path) -> Sequence[Path]:
    """The folders around a file, links resolved."""
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
    """Whether there is such a file; False for what can't be the name of one."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # pathlib lets some of these through, such as too long a name
        return False


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; False for what can't be the name of one."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def physical_memory() -> int:
    """Bytes of memory of this machine; where that can't be found out, a terabyte."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 40


def one_line(text: object, most: int = 200) -> str:
    """Other people's words for a message: one line, with the middle left out if it is long."""
    line = " ".join(str(text).split())
    half = (most - 5) // 2
    return line if len(line) <= most else f"{line[:half]} ... {line[-half:]}"
