"""YOLO datasets: one text file per image, with a line ``class cx cy w h`` per box, in fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from hyperfocal.data.file_names import CASE, FileNames, visible_files, warn_of_hidden
from hyperfocal.data.images import SUFFIXES
from hyperfocal.data.raw import Problems, RawAnnotations, RawImage, SplitName
from hyperfocal.data.yaml_files import load_yaml
from hyperfocal.files import is_file, is_folder, read_text, shown
from hyperfocal.types import Category, DataError

YAML_SUFFIXES = frozenset({".yaml", ".yml"})

_NOT_LABELS = frozenset(
    {"classes.txt", "labels.txt", "notes.txt", "train.txt", "val.txt", "test.txt"}
    | {"readme.txt", "requirements.txt", "readme.dataset.txt", "readme.roboflow.txt"}
)

_SPLIT_FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
}
MAX_DIGITS = 9
"""Of a class number."""

MIN_POSE = 11
"""Words of a line from which it may be a pose; an oriented box has nine."""

MAX_FRACTION = 2.0
"""Beyond this a coordinate is a pixel, not a fraction that sticks out a little."""


def find_yaml(folder: Path) -> Path | None:
    """The YAML file of a YOLO folder, preferably ``data.yaml``."""
    files = sorted(
        f
        for f in folder.iterdir()
        if f.suffix.lower() in YAML_SUFFIXES and not f.name.startswith(".")
    )
    return next((f for f in files if f.stem == "data"), files[0] if files else None)


def has_labels(folder: Path) -> bool:
    """Whether the folder contains YOLO label files."""
    return any(_is_label(file) for file in folder.glob("*.txt"))


def has_labels_folder(folder: Path) -> bool:
    """Whether the folder is the root of a YOLO tree: ``images``, and ``labels`` with label
    files."""
    labels = folder / "labels"
    return (folder / "images").is_dir() and labels.is_dir() and any(labels.rglob("*.txt"))


def _is_label(file: Path) -> bool:
    return file.name.lower() not in _NOT_LABELS and not file.name.startswith(".")


def read_yolo(
    annotations: Path,
    images: Path | None = None,
    split: SplitName = "train",
    categories: Sequence[Category] | None = None,
    problems: Problems | None = None,
) -> RawAnnotations:
    """Parse a YOLO dataset.

    The label file of an image is looked up in the folder of label files if ``annotations`` is one;
    else in the image's folder with ``images`` replaced by ``labels``; else next to the image. An
    image without a label file has no boxes. Category ids are the class numbers, from 0; images are
    numbered from 1.

    A line is one of the following, optionally with a confidence or a track id at its end:

    * a box: ``class cx cy w h``;
    * a polygon or an oriented box: ``class x1 y1 x2 y2 x3 y3 ...``, at least three points; its
      bounding box is used;
    * a pose, if ``data.yaml`` has ``kpt_shape: [points, 2 or 3]``: ``class cx cy w h`` and the
      keypoints, which are ignored.

    Args:
        annotations: ``data.yaml``, a folder with one, a folder of label files, or a folder with
            ``images`` and ``labels`` (and in these ``train`` and ``val``, if the splits are
            separate).
        images: image folder of the split; None: that in ``data.yaml``.
        split: ``train`` or ``val``.
        categories: names for a folder of label files without ``classes.txt``.
        problems: collects errors and warnings; None raises and warns.

    Raises:
        DataError: unreadable files or lines; the message names them.
    """
    labels, keypoints = None, None
    file = find_yaml(annotations) if annotations.is_dir() else annotations
    problems = problems or Problems(file or annotations)
    hidden: list[Path] = []
    if file is not None:
        settings = _load_yaml(file)
        known = _names(settings, file)
        keypoints = _keypoints(settings, file)
        if images:
            files = _list_images(images, hidden)
        else:
            files = _split_images(settings, file, split, hidden, problems)
    else:
        labels = annotations
        if images is None and has_labels_folder(annotations):
            labels, images = _split_folders(annotations, split)
        known = _names_beside(labels, categories)
        if images is None:
            raise DataError(
                f"{labels}: a folder of label files; name the image folder with "
                f"--data.{split}.images"
            )
        files = _list_images(images, hidden)
    warn_of_hidden(hidden, problems)
    rows: list[tuple[float, ...]] = []
    owners: list[int] = []
    where: list[str] = []
    read: set[Path] = set()
    poses = _PoseSigns()
    names = FileNames()
    renamed: list[str] = []
    for number, image in enumerate(files, start=1):
        label_file = _label_file(image, images, labels)
        if not is_file(label_file):
            other = names.find(label_file.parent, label_file.name)
            if other is not None:
                renamed.append(f"{other.name} of {image.name}")
                label_file = other
        read.add(label_file)
        for line, row in _read_labels(label_file, keypoints, poses, problems):
            rows.append(row)
            owners.append(number)
            where.append(f"{label_file.name} line {line}")
    orphans = sorted(
        path
        for folder in {path.parent for path in read}
        for path in folder.glob("*.txt")
        if path not in read and _is_label(path)
    )
    poses.check(problems)
    problems.warn(
        len(renamed), "label-file label-files", f"found although {CASE}", (renamed or [""])[0]
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
    problems.report()
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
        order="cxcywh",
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
    by_number = {_class_number(key, path): name for key, name in names.items()}
    return tuple(
        Category(n, _text(by_number[n], "a name", path).strip()) for n in sorted(by_number)
    )


def _class_number(key: object, path: Path) -> int:
    text = str(key)
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise DataError(f"{path}: the keys of names must be class numbers, found {shown(key)}")
    return int(text)


def _keypoints(settings: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
    """Number of keypoints of a pose dataset and of values per keypoint; None for other datasets."""
    shape = settings.get("kpt_shape")
    if not shape:
        if str(settings.get("task", "")).strip() == "pose":
            raise DataError(f"{path}: task is pose, but kpt_shape is missing; add [points, 2 or 3]")
        return None
    words = [str(value) for value in shape] if isinstance(shape, list) else []
    if len(words) != 2 or not words[0].isdecimal() or words[1] not in ("2", "3"):
        raise DataError(f"{path}: kpt_shape = {shown(shape)}, but it must be [points, 2 or 3]")
    return int(words[0][:MAX_DIGITS]), int(words[1])


def _text(value: object, what: str, path: Path) -> str:
    if not isinstance(value, str):
        raise DataError(f"{path}: {what} must be text, found {shown(value)}")
    return value


def _split_folders(root: Path, split: str) -> tuple[Path, Path]:
    """Label folder and image folder of a split in a tree without ``data.yaml``."""
    for name in _SPLIT_FOLDERS[split]:
        if (root / "images" / name).is_dir():
            return root / "labels" / name, root / "images" / name
    others = [n for names in _SPLIT_FOLDERS.values() for n in names]
    found = [name for name in others if (root / "images" / name).is_dir()]
    if found:
        raise DataError(
            f"{root}: no folder images/{_SPLIT_FOLDERS[split][0]} in it for the {split} split; "
            f"there is images/{', images/'.join(found)}"
        )
    return root / "labels", root / "images"


def _names_beside(labels: Path, categories: Sequence[Category] | None) -> tuple[Category, ...]:
    """Category names for a folder of label files, from ``classes.txt`` in it or in its parent."""
    for place in (labels, labels.parent, labels.parent.parent):
        place = place / "classes.txt"
        if place.is_file():
            lines = read_text(place).split("\n")
            names = [line.strip() for line in lines if line.strip()]
            return tuple(Category(number, name) for number, name in enumerate(names))
    if categories:
        return tuple(categories)
    raise DataError(
        f"{labels}: label files without names; put a classes.txt in it, one name per line, or give "
        "the data.yaml instead"
    )


def _split_images(
    settings: Mapping[str, Any],
    path: Path,
    split: str,
    hidden: list[Path],
    problems: Problems,
) -> list[Path]:
    """Image files of a split, from folders or from text files that list images."""
    root = _root(settings, path, problems)
    entries = settings.get(split)
    if split == "val" and not entries:
        entries = settings.get("valid")
    if not entries:
        raise DataError(f"{path}: no entry {split!r} in it; add one, or give --data.{split}.images")
    files: list[Path] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        place = _inside(root, _text(entry, split, path), path)
        if place.suffix.lower() == ".txt":
            if not is_file(place):
                raise DataError(
                    f"{path}: {split} names the list {place}, but there is no such file"
                )
            lines = [line.strip().replace("\\", "/") for line in read_text(place).splitlines()]
            files += [_inside(root, line, place) for line in lines if line]
        else:
            files += _list_images(place, hidden)
    return files


def _root(settings: Mapping[str, Any], path: Path, problems: Problems) -> Path:
    """The folder that entries are relative to: ``path`` if data.yaml has it."""
    base = settings.get("path")
    if not base:
        return path.parent
    name = _text(base, "path", path)
    is_absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    if is_absolute and not is_folder(Path(name)):
        problems.warn(
            1, "entry entries", f"`path` names a folder of another machine; {path.parent} is used",
            shown(name),
        )  # fmt: skip
        return path.parent
    return _inside(path.parent, name, path)


def _inside(folder: Path, name: str, source: Path) -> Path:
    """``folder / name``; an error if it is outside the folder of the dataset.

    A wrong ``../train/images`` is corrected if there is a folder ``train`` next to the YAML file.
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


def _list_images(folder: Path, hidden: list[Path]) -> list[Path]:
    """Images below a folder; those that are hidden are added to ``hidden``."""
    if not is_folder(folder):
        raise DataError(f"{folder}: the image folder does not exist")
    files, left_out = visible_files(folder, SUFFIXES)
    hidden += left_out
    return files


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


def _read_labels(
    file: Path, keypoints: tuple[int, int] | None, poses: _PoseSigns, problems: Problems
) -> list[tuple[int, tuple[float, ...]]]:
    """Line number and (class, x1, y1, x2, y2) of every box; empty if there is no file."""
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
            rows.append((number, _parse_line(line, keypoints)))
            if keypoints is None:
                poses.see(line, f"{file} line {number}")
        except ValueError as error:
            problems.errors.append(f"{file} line {number}: {error}, found {line.strip()[:60]!r}")
    return rows


def _parse_line(line: str, keypoints: tuple[int, int] | None) -> tuple[float, ...]:
    """Class, x1, y1, x2, y2."""
    words = line.split()
    number = _class_of(words[0])
    values = [float(word) for word in words[1:]]
    count = len(values)
    if keypoints is not None:
        pose = 4 + keypoints[0] * keypoints[1]
        if count not in (4, 5, pose, pose + 1, pose + 2):
            raise ValueError(
                f"expected a class number and {pose} values (a box and {keypoints[0]} keypoints of "
                f"{keypoints[1]}, as kpt_shape says), but there are {count}"
            )
        coordinates = values[:4]
    elif count in (4, 5):  # the fifth is a confidence or a track id
        coordinates = values[:4]
    elif count >= 6:
        coordinates = values[: count - count % 2]
    else:
        raise ValueError("expected a class number and 4 values, or a polygon of at least 3 points")
    if any(abs(value) > MAX_FRACTION for value in coordinates):
        raise ValueError("coordinates must be fractions of the image's width and height")
    if len(coordinates) == 4:
        cx, cy, w, h = coordinates
        return number, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    xs, ys = coordinates[::2], coordinates[1::2]
    return number, min(xs), min(ys), max(xs), max(ys)


def _class_of(word: str) -> float:
    """The class number, which some tools write as 1.0."""
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not (number.is_integer() and 0 <= number < 10**MAX_DIGITS):
        raise ValueError("the first word must be a class number")
    return number


class _PoseSigns:
    """Detects lines with poses in a dataset that isn't declared as a pose dataset.

    Lines are considered poses if all of them have the same length, more than an oriented box has,
    and in each of them the first four values are a box that contains the following points.
    """

    def __init__(self) -> None:
        self.lengths: set[int] = set()
        self.first = ""
        self.possible = True

    def see(self, line: str, where: str) -> None:
        """Add a line of a label file."""
        words = line.split()
        if not self.possible or len(words) <= 6:
            return
        self.possible = len(words) >= MIN_POSE and _is_pose(words)
        self.lengths.add(len(words))
        self.first = self.first or where

    def check(self, problems: Problems) -> None:
        """Add an error if all lines seem to be poses."""
        if self.possible and len(self.lengths) == 1:
            problems.errors.append(
                f"the lines seem to be poses (a box, and keypoints inside it), first {self.first}; "
                "add kpt_shape: [points, 2 or 3] to a data.yaml, so that they aren't read as "
                "polygons"
            )


def _is_pose(words: Sequence[str]) -> bool:
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        return False
    cx, cy, w, h = values[:4]
    for per_point in (2, 3):
        if len(values[4:]) % per_point:
            continue
        xs, ys = values[4::per_point], values[5::per_point]
        inside_x = all(abs(x - cx) <= w / 2 + 1e-6 or x == 0 for x in xs)
        inside_y = all(abs(y - cy) <= h / 2 + 1e-6 or y == 0 for y in ys)
        if w > 0 and h > 0 and inside_x and inside_y:
            return True
    return False
