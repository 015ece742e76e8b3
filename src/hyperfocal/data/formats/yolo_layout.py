"""The layout of a YOLO dataset: data.yaml, folders of images and label files, category names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hyperfocal.data.file_names import visible_files
from hyperfocal.data.formats.raw import Problems
from hyperfocal.data.formats.yaml_files import load_yaml
from hyperfocal.data.formats.yolo_labels import MAX_DIGITS
from hyperfocal.data.images import SUFFIXES
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
    return any(is_label(file) for file in folder.glob("*.txt"))


def has_labels_folder(folder: Path) -> bool:
    """Whether the folder is the root of a YOLO tree: ``images``, and ``labels`` with label
    files."""
    labels = folder / "labels"
    return (folder / "images").is_dir() and labels.is_dir() and any(labels.rglob("*.txt"))


def is_label(file: Path) -> bool:
    """Whether a text file holds labels, by its name."""
    return file.name.lower() not in _NOT_LABELS and not file.name.startswith(".")


def read_settings(path: Path) -> Mapping[str, Any]:
    """The fields of ``data.yaml``."""
    try:
        settings = load_yaml(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    if not isinstance(settings, dict):
        raise DataError(f"{path}: expected fields such as names, train and val")
    return settings


def names_in(settings: Mapping[str, Any], path: Path) -> tuple[Category, ...]:
    """The categories in ``names`` of ``data.yaml``, by class number."""
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


def keypoints_in(settings: Mapping[str, Any], path: Path) -> tuple[int, int] | None:
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


def split_folders(root: Path, split: str) -> tuple[Path, Path]:
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


def names_beside(labels: Path, categories: Sequence[Category] | None) -> tuple[Category, ...]:
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


def split_images(
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
            files += list_images(place, hidden)
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


def list_images(folder: Path, hidden: list[Path]) -> list[Path]:
    """Images below a folder; those that are hidden are added to ``hidden``."""
    if not is_folder(folder):
        raise DataError(f"{folder}: the image folder does not exist")
    files, left_out = visible_files(folder, SUFFIXES)
    hidden += left_out
    return files


def label_file_of(image: Path, folder: Path | None, labels: Path | None) -> Path:
    """The label file of an image, whether it exists or not.

    Args:
        image: the image file.
        folder: the image folder, or None.
        labels: the folder of label files; None: looked for, as `read_yolo` describes.
    """
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
