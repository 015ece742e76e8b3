"""COCO's JSON format: images, annotations and categories; boxes are ``[x, y, width, height]``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.file_names import holds_any
from hyperfocal.data.formats.lvis import read_federated
from hyperfocal.data.formats.raw import MAX_SIDE, Problems, RawAnnotations, RawImage, inside
from hyperfocal.data.formats.segmentation import segmentation_box
from hyperfocal.files import MAX_SHOWN, load_json, shown, whole_number
from hyperfocal.types import Category, DataError


def read_coco(
    path: Path,
    images: Path | None = None,
    problems: Problems | None = None,
    content: Mapping[str, Any] | None = None,
) -> RawAnnotations:
    """Parse a COCO annotation file.

    Labels are in the order of the category ids, independent of the order of the list. For each
    annotation, ``image_id``, ``category_id``, ``bbox``, ``iscrowd`` (default 0) and ``area``
    (default: the area of the box) are read. Keypoints are ignored, and ``segmentation`` is only
    used if ``bbox`` is missing: then the box around it is used, with a warning that gives their
    number. LVIS files are read too: their lists of verified categories, ``frequency``, and the file
    name at the end of ``coco_url``.

    Args:
        path: the JSON file.
        images: folder that ``file_name`` is relative to; None: the folder of the JSON file, or
            ``images`` in that folder if it contains the image files.
        problems: collects errors and warnings; None raises and warns.
        content: the decoded JSON, if it is in memory; ``path`` is then only used in messages.

    Raises:
        DataError: not a COCO annotation file, or entries with missing values; the message names
            them.
    """
    data = _load(path) if content is None else content
    lists = {key: _entries(data, key, path) for key in ("images", "annotations", "categories")}
    problems = problems or Problems(path)
    folder = images or _find_images(path, lists["images"])

    annotations = lists["annotations"]
    ids = _integers(lists["categories"], "id", "category", problems)
    image_ids = _integers(lists["images"], "id", "image", problems)
    owner_ids = _integers(annotations, "image_id", "annotation", problems)
    category_ids = _integers(annotations, "category_id", "annotation", problems)
    problems.raise_errors()
    names = [_name(entry.get("name")) for entry in lists["categories"]]
    categories = [Category(*pair) for pair in zip(ids, names, strict=True)]
    for category in categories:
        if not category.name:
            problems.errors.append(f"category id {category.id} has no name; give it one")
    raw_images = [
        _image(entry, image_id, folder, problems)
        for entry, image_id in zip(lists["images"], image_ids, strict=True)
    ]

    annotation_ids = [entry.get("id", f"number {n}") for n, entry in enumerate(annotations)]
    repeats = _repeats(annotation_ids)
    problems.warn(
        len(repeats), "annotation annotations", "repeat the id of another; all are kept",
        f"id {shown(repeats[0])}" if repeats else "",
    )  # fmt: skip
    xywh = _boxes(annotations)
    boxes, around = _boxes_around(annotations, xywh)
    problems.warn(
        len(around),
        "annotation annotations",
        "without bbox, or with one of size 0: the box around the segmentation is used",
        f"id {_id(annotation_ids[around[0]])}" if around else "",
        around,
    )
    federated = None
    if any("neg_category_ids" in entry for entry in lists["images"]):
        federated = read_federated(lists["images"], lists["categories"], problems)
    crowd = _crowd(annotations, annotation_ids, problems)
    problems.report()
    return RawAnnotations(
        source=path,
        categories=tuple(sorted(categories, key=lambda category: category.id)),
        images=[image for image in raw_images if image is not None],
        image_ids=np.array(owner_ids, dtype=np.int64),
        category_ids=np.array(category_ids, dtype=np.int64),
        boxes=boxes,
        xywh=xywh,
        order="xywh",
        crowd=crowd,
        area=np.array([_number(entry.get("area")) for entry in annotations], dtype=np.float64),
        describe=lambda n: f"annotation id {_id(annotation_ids[n])}",
        federated=federated,
    )


def _load(path: Path) -> Mapping[str, Any]:
    try:
        data = load_json(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file") from None
    if isinstance(data, list):
        raise DataError(
            f"{path}: a JSON list, such as detection results are; annotations are an object with "
            "images, annotations and categories"
        )
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def _entries(data: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    entries = data.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{path}: no list {key!r} in it, so it isn't a COCO annotation file")
    for n, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: {key}[{n}] is not an object")
    return entries


def _integers(
    entries: Sequence[Mapping[str, Any]], key: str, thing: str, problems: Problems
) -> list[int]:
    values: list[Any] = [entry.get(key) for entry in entries]
    good: list[int] = []
    for n, value in enumerate(values):
        number = whole_number(value)
        if number is not None and abs(number) < 2**63:
            good.append(number)
        else:
            problems.errors.append(
                f"{thing} number {n} (id {shown(entries[n].get('id'))}) has {key} = "
                f"{shown(value)}, but it must be a whole number"
            )
    return good


def _name(value: object) -> str:
    """Name of a category; numbers are converted to text, and anything else is no name."""
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _image(
    entry: Mapping[str, Any], image_id: int, folder: Path, problems: Problems
) -> RawImage | None:
    name = _file_name(entry)
    if not isinstance(name, str) or not name:
        problems.errors.append(f"image id {image_id} has no file_name")
        return None
    path = inside(folder, name)
    if path is None:
        problems.errors.append(
            f"image id {image_id}: file_name {shown(name)} leads out of the image folder {folder}"
            "; make it relative to that folder"
        )
        return None
    size: tuple[Any, Any] = entry.get("height"), entry.get("width")
    numbers = [whole_number(value) or 0 for value in size]
    height, width = (number if 0 < number <= MAX_SIDE else 0 for number in numbers)
    return RawImage(image_id, name, path, (height, width) if height and width else None, folder)


def _file_name(entry: Mapping[str, Any]) -> object:
    name, url = entry.get("file_name"), entry.get("coco_url")
    return name_in_address(url) if name is None and isinstance(url, str) else name


def name_in_address(url: str) -> str:
    """The folder and file name at the end of a ``coco_url``.

    LVIS v1 has images from both of COCO's folders, and gives only their addresses.
    """
    return "/".join(url.split("/")[-2:])


def _find_images(path: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    # A few names, for the first image may be the one that is missing.
    names = [name for entry in entries[:10] if isinstance(name := _file_name(entry), str)]
    for folder in (path.parent, path.parent / "images"):
        if holds_any(folder, names):
            return folder
    return path.parent


def _boxes(annotations: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """``(N, 4)`` x, y, width, height as written; NaN for annotations without a valid box."""
    try:
        boxes = np.array([entry["bbox"] for entry in annotations], np.float64).reshape(-1, 4)
        if len(boxes) != len(annotations):
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        boxes = np.full((len(annotations), 4), np.nan)
        for n, entry in enumerate(annotations):
            box = entry.get("bbox")
            if isinstance(box, list) and len(box) == 4:
                boxes[n] = [_number(value) for value in box]
    return boxes


def _boxes_around(
    annotations: Sequence[Mapping[str, Any]], xywh: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[int]]:
    """Boxes as xyxy, those around segmentations if there is no bbox, and the rows of the latter."""
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    rows = []
    for n, entry in enumerate(annotations):
        has_box = np.isfinite(xywh[n]).all() and (xywh[n, 2:] != 0).any()
        if has_box or not entry.get("segmentation"):
            continue
        box = segmentation_box(entry["segmentation"])
        if box is not None:
            boxes[n] = box
            rows.append(n)
    return boxes, rows


def _crowd(
    annotations: Sequence[Mapping[str, Any]], ids: Sequence[object], problems: Problems
) -> NDArray[np.bool_]:
    """The crowd flags: 0 or 1, also as a boolean or as text."""
    flags = np.zeros(len(annotations), np.bool_)
    for n, entry in enumerate(annotations):
        value = entry.get("iscrowd", 0)
        number = int(value or 0) if value is None or type(value) is bool else whole_number(value)
        if number not in (0, 1):
            problems.errors.append(
                f"annotation id {_id(ids[n])} has iscrowd = {shown(value)}, but it must be 0 or 1"
            )
        flags[n] = number == 1
    return flags


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float | str) else float("nan")
    except (OverflowError, ValueError):
        return float("nan")


def _id(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= MAX_SHOWN else shown(value)


def _repeats(ids: Sequence[object]) -> list[object]:
    seen: set[str | int] = set()
    repeats = []
    for value in ids:
        # As text: an id may be anything JSON allows, lists included.
        text = value if isinstance(value, int) else json.dumps(value)
        if text in seen:
            repeats.append(value)
        seen.add(text)
    return repeats
