"""YOLO folders: a text file an image, one ``class cx cy w h`` line a box, in fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperfocal.data.images import SUFFIXES
from hyperfocal.data.raw import Problems, RawAnnotations, RawImage, SplitName
from hyperfocal.files import is_file, is_folder, load_yaml, read_text, shown
from hyperfocal.types import Category, DataError

YAML_SUFFIXES = frozenset({".yaml", ".yml"})

_NOT_LABELS = frozenset({"classes.txt", "obj.names", "train.txt", "val.txt", "test.txt"})
MAX_DIGITS = 9
"""Of a class number."""

MAX_FRACTION = 2.0
"""Beyond this a coordinate is a pixel, not a fraction that sticks out a little."""


def find_yaml(folder: Path) -> Path | None:
    """The YAML file of a YOLO folder, ``data.yaml`` before others."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in YAML_SUFFIXES)
    return next((f for f in files if f.stem == "data"), files[0] if files else None)


def has_labels(folder: Path) -> bool:
    """Whether the folder holds YOLO label files."""
    return any(file.name not in _NOT_LABELS for file in folder.glob("*.txt"))


def read_yolo(
    annotations: Path,
    images: Path | None = None,
    split: SplitName = "train",
    categories: Sequence[Category] | None = None,
    problems: Problems | None = None,
) -> RawAnnotations:
    """Parse a YOLO dataset.

    The labels of an image are looked for in the folder of labels if that is what was given, else
    where ``images`` in the image's folder is replaced by ``labels``, else beside the image. An
    image without a label file has no boxes. A line with a polygon gives the box around it.
    Category ids are the classes' numbers, from 0; images are numbered from 1.

    Args:
        annotations: ``data.yaml``, a folder with one, or a folder of label files.
        images: the split's image folder; None takes what ``data.yaml`` says for ``split``.
        split: ``train`` or ``val``.
        categories: names for a folder of label files without ``classes.txt``.
        problems: collects what is wrong; None tells it.

    Raises:
        DataError: unreadable files or lines; names them.
    """
    labels = None
    file = find_yaml(annotations) if annotations.is_dir() else annotations
    if file is not None:
        settings = _load_yaml(file)
        known = _names(settings, file)
        files = _list_images(images) if images else _split_images(settings, file, split)
    else:
        labels = annotations
        known = _names_beside(labels, categories)
        if images is None:
            raise DataError(
                f"{labels}: a folder of label files; say where the images are, with "
                f"--data.{split}.images"
            )
        files = _list_images(images)

    problems = problems or Problems(file or annotations)
    rows: list[tuple[float, ...]] = []
    owners: list[int] = []
    where: list[str] = []
    read: set[Path] = set()
    for number, image in enumerate(files, start=1):
        label_file = _label_file(image, images, labels)
        read.add(label_file)
        for line, row in _read_labels(label_file, problems):
            rows.append(row)
            owners.append(number)
            where.append(f"{label_file.name} line {line}")
    orphans = sorted(
        path
        for folder in {path.parent for path in read}
        for path in folder.glob("*.txt")
        if path not in read and path.name not in _NOT_LABELS
    )
    if files and not any(is_file(path) for path in read):
        problems.errors.append(
            "no label file belongs to any of the images; the first looked for is "
            f"{_label_file(files[0], images, labels)}"
        )
    problems.warn(
        len(orphans),
        "label-file label-files",
        "without an image left out",
        str(orphans[0]) if orphans else "",
    )
    problems.tell()
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return RawAnnotations(
        source=file or annotations,
        categories=known,
        images=[RawImage(n, path.name, path, None) for n, path in enumerate(files, start=1)],
        image_ids=np.array(owners, dtype=np.int64),
        category_ids=table[:, 0].astype(np.int64),
        boxes=table[:, 1:].copy(),
        crowd=np.zeros(len(table), dtype=np.bool_),
        area=np.full(len(table), np.nan),
        describe=where.__getitem__,
        normalized=True,
    )


# --------------------------------------------------------------------------- data.yaml


def _load_yaml(path: Path) -> Mapping[str, Any]:
    try:
        settings = load_yaml(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    if not isinstance(settings, dict):
        raise DataError(f"{path}: expected fields such as names, train and val")
    return settings


def _names(settings: Mapping[str, Any], path: Path) -> tuple[Category, ...]:
    names = settings.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path}: no names in it; list the classes under names")
    if not all(type(number) is int and abs(number) < 2**63 for number in names):
        raise DataError(f"{path}: the keys of names must be class numbers")
    return tuple(Category(n, _text(names[n], "a name", path).strip()) for n in sorted(names))


def _text(value: object, what: str, path: Path) -> str:
    if not isinstance(value, str | int | float):
        raise DataError(f"{path}: {what} must be text, found {shown(value)}")
    return str(value)


def _names_beside(labels: Path, categories: Sequence[Category] | None) -> tuple[Category, ...]:
    """Names for a bare folder of label files."""
    for place in (labels / "classes.txt", labels.parent / "classes.txt"):
        if place.is_file():
            lines = read_text(place).split("\n")
            names = [line.strip() for line in lines if line.strip()]
            return tuple(Category(number, name) for number, name in enumerate(names))
    if categories:
        return tuple(categories)
    raise DataError(
        f"{labels}: label files without names; put a classes.txt in it, one name a line, or give "
        "the data.yaml instead"
    )


def _split_images(settings: Mapping[str, Any], path: Path, split: str) -> list[Path]:
    """Image files of a split: from a folder, a text file that lists images, or several of them."""
    root = path.parent
    base = settings.get("path")
    if base is not None:
        root = _inside(path.parent, _text(base, "path", path), path)
    entries = settings.get(split)
    if entries is None:
        raise DataError(f"{path}: no entry {split!r} in it; add one, or give --data.{split}.images")
    files: list[Path] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        place = _inside(root, _text(entry, split, path), path)
        if place.suffix == ".txt":
            lines = read_text(place).split("\n") if is_file(place) else []
            files += [_inside(root, line.strip(), place) for line in lines if line.strip()]
        else:
            files += _list_images(place)
    return files


def _inside(folder: Path, name: str, source: Path) -> Path:
    """``folder / name``, refusing to leave the folder of the dataset.

    Exports that write ``../train/images`` for a folder ``train`` beside the YAML are put right.
    """
    try:
        place = (folder / name).resolve()
        if place.is_relative_to(folder.resolve()):
            return folder / place.relative_to(folder.resolve())
        stripped = name
        while stripped.startswith("../"):
            stripped = stripped.removeprefix("../")
        if stripped != name and ".." not in Path(stripped).parts and (folder / stripped).exists():
            return folder / stripped
    except (ValueError, OSError):
        pass
    raise DataError(
        f"{source}: {shown(name)} leads out of {folder}; make it relative to that folder, or give "
        "the images with --data.train.images and --data.val.images"
    )


def _list_images(folder: Path) -> list[Path]:
    if not is_folder(folder):
        raise DataError(f"{folder}: the image folder does not exist")
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


# --------------------------------------------------------------------------- label files


def _label_file(image: Path, folder: Path | None, labels: Path | None) -> Path:
    if labels is not None and folder is not None:
        return labels / image.relative_to(folder).with_suffix(".txt")
    parts = list(image.parts)
    for n in range(len(parts) - 2, -1, -1):
        if parts[n] == "images":
            apart = Path(*parts[:n], "labels", *parts[n + 1 :]).with_suffix(".txt")
            if is_folder(apart.parent):
                return apart
            break
    return image.with_suffix(".txt")


def _read_labels(file: Path, problems: Problems) -> list[tuple[int, tuple[float, ...]]]:
    """Line number and (class, x1, y1, x2, y2) of every box; nothing where there is no file."""
    try:
        lines = read_text(file).splitlines()
    except FileNotFoundError:
        return []
    except DataError as error:
        problems.errors.append(str(error))
        return []
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, _parse_line(line)))
        except ValueError as error:
            problems.errors.append(f"{file} line {number}: {error}, found {line.strip()[:60]!r}")
    return rows


def _parse_line(line: str) -> tuple[float, ...]:
    words = line.split()
    values = [float(word) for word in words[1:]]
    if not words[0].isdecimal() or len(words[0]) > MAX_DIGITS:
        raise ValueError("the first word must be a class number")
    if any(abs(value) > MAX_FRACTION for value in values):
        raise ValueError("coordinates must be fractions of the image's width and height")
    if len(values) == 4:
        cx, cy, w, h = values
        return int(words[0]), cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[::2], values[1::2]
        return int(words[0]), min(xs), min(ys), max(xs), max(ys)
    raise ValueError("expected a class number and 4 values, or a polygon of at least 3 points")
