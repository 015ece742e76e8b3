"""Finds the train and val splits in a data folder."""

from __future__ import annotations

import itertools
import json
import mmap
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hyperfocal.data import Split, SplitName
from hyperfocal.data.annotations import coco_files
from hyperfocal.data.file_names import holds_any
from hyperfocal.data.formats.coco import name_in_address
from hyperfocal.data.formats.voc import find_voc
from hyperfocal.data.formats.yaml_files import load_yaml
from hyperfocal.data.formats.yolo_layout import find_yaml, has_labels, has_labels_folder
from hyperfocal.files import as_utf8
from hyperfocal.types import DataError

NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
}
"""Words in the name of a file or folder that identify a split, most common first."""

TRIED_IMAGES = 10
"""Number of a file's images used to find its image folder."""

_DEPTH = 2


def find_splits(data: str | Path) -> dict[SplitName, Split]:
    """Find the splits of ``data``.

    Searched in this order: a YOLO ``data.yaml``; a VOC tree with lists in ``ImageSets/Main``;
    folders named after the splits, each with its own annotations; ``.json`` files named after the
    splits in ``data`` or in one of its folders; one format without splits, used as train. The image
    folder of a ``.json`` is the folder near it that contains its first images.

    Args:
        data: a folder, or a YAML or JSON file.

    Raises:
        DataError: nothing is found, or more than one file per split.
    """
    data = Path(data)
    if not data.exists():
        raise DataError(f"{data}: no such file or folder")
    if data.is_file():
        return _of_file(data)
    yaml = find_yaml(data)
    if yaml is not None:
        return _of_file(yaml)
    if find_voc(data) is not None:
        lists = data / "ImageSets" / "Main"
        found: dict[SplitName, Split] = {"train": Split(data)}
        if (lists / "val.txt").is_file():
            found["val"] = Split(data)
        return found
    for look in (_named_folders, _named_files):
        found = look(data)
        if found:
            return found
    jsons = coco_files(data)
    if len(jsons) == 1:
        return {"train": Split(jsons[0], _images_of(jsons[0], data, "train"))}
    if has_labels_folder(data):
        return {"train": Split(data)}
    raise DataError(
        f"{data}: no train and val annotations found (searched for data.yaml, ImageSets/Main, "
        "folders train and val, and .json files with train and val in their names); give them with "
        "--data.train.annotations, --data.train.images and the same for val"
    )


def _of_file(file: Path) -> dict[SplitName, Split]:
    if file.suffix.lower() == ".json":
        return {"train": Split(file, _images_of(file, file.parent, "train"))}
    settings = load_yaml(file)
    has_val = isinstance(settings, dict) and settings.get("val") is not None
    found: dict[SplitName, Split] = {"train": Split(file)}
    if has_val:
        found["val"] = Split(file)
    return found


def _named_folders(data: Path) -> dict[SplitName, Split]:
    """``train/`` and ``valid/``, each with its own annotations and images."""
    found: dict[SplitName, Split] = {}
    for name, words in NAMES.items():
        for word in words:
            folder = data / word
            if not folder.is_dir():
                continue
            jsons = coco_files(folder)
            if len(jsons) == 1:
                found[name] = Split(jsons[0], _images_of(jsons[0], folder, name))
            elif find_voc(folder) is not None:
                found[name] = Split(folder)
            elif has_labels(folder / "labels"):
                found[name] = Split(folder / "labels", folder / "images")
            if name in found:
                break
    return found if "train" in found else {}


def _named_files(data: Path) -> dict[SplitName, Split]:
    """``train.json`` and ``val.json``, or ``annotations/instances_train2017.json`` and so on."""
    found: dict[SplitName, Split] = {}
    files = [f for folder in (data, *_folders(data, 1)) for f in coco_files(folder)]
    for name, words in NAMES.items():
        named = [f for f in files if any(word in f.stem.lower() for word in words)]
        exact = [f for f in named if f.stem.lower() in words]
        # COCO's folder also has captions and keypoints.
        boxes = [f for f in named if f.stem.lower().startswith("instances")]
        chosen = exact[:1] or (boxes if len(named) > 1 and boxes else named)
        if len(chosen) > 1:
            raise DataError(
                f"{data}: several files for {name} ({', '.join(f.name for f in chosen[:4])}); "
                f"choose one with --data.{name}.annotations"
            )
        if chosen:
            found[name] = Split(chosen[0], _images_of(chosen[0], data, name))
    return found if "train" in found else {}


def _images_of(file: Path, data: Path, name: SplitName) -> Path | None:
    """The folder that a COCO file's names are relative to."""
    names = _first_names(file)
    around = [file.parent, data, *_folders(data, _DEPTH)]
    if file.parent != data:
        around += _folders(file.parent, _DEPTH)
    around.sort(key=lambda folder: not any(word in folder.name.lower() for word in NAMES[name]))
    return next((folder for folder in around if holds_any(folder, names)), None)


def _first_names(file: Path) -> list[str]:
    """Some of a COCO file's image names, without parsing all of it."""
    try:
        with as_utf8(file) as text:
            found = _first(_FILE_NAME, text)
            return found or [name_in_address(url) for url in _first(_COCO_URL, text)]
    except ValueError:  # empty, or not text
        return []


_FILE_NAME, _COCO_URL = (
    re.compile(rb'"%s"\s*:\s*("(?:[^"\\\\]|\\\\.){1,1000}")' % key)
    for key in (b"file_name", b"coco_url")
)


def _first(pattern: re.Pattern[bytes], text: bytes | mmap.mmap) -> list[str]:
    """The first strings that ``pattern`` matches, except those that aren't JSON."""
    names = []
    for match in itertools.islice(pattern.finditer(text), TRIED_IMAGES):
        with suppress(ValueError):
            names.append(str(json.loads(match[1])))
    return names


def _folders(root: Path, depth: int) -> Iterator[Path]:
    if depth == 0:
        return
    for folder in sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")):
        yield folder
        yield from _folders(folder, depth - 1)
