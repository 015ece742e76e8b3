"""Several annotation files of one split, joined before they are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.formats.raw import Problems, RawAnnotations
from hyperfocal.types import Category, DataError


def join(parts: Sequence[RawAnnotations], problems: Problems) -> RawAnnotations:
    """Join several sets of annotations of the same split.

    Categories are joined by name. Those of the first part keep their ids, and new ones keep theirs
    unless it is in use. Images with the same file become one image with the boxes of all parts, and
    boxes that an earlier part also has, with the same category, are dropped. Other images whose id
    an earlier part uses get a new id.

    Args:
        parts: at least one.
        problems: collects one warning for repeated boxes, with their number.

    Raises:
        DataError: some parts have boxes in pixels and others in fractions, or a part has LVIS's or
            Open Images' lists of verified categories.
    """
    first, *others = parts
    if not others:
        return first
    for part in parts:
        if part.normalized != first.normalized:
            raise DataError(
                f"{first.source} and {part.source}: one has boxes in pixels and the other in "
                "fractions of the image; the annotation files of a split must be of one format"
            )
        if part.federated is not None or part.openimages is not None:
            raise DataError(
                f"{part.source}: files with LVIS's or Open Images' lists of verified categories "
                "can't be joined; give one file"
            )
    categories = list(first.categories)
    images, owners, labels = list(first.images), [first.image_ids], [first.category_ids]
    used = {image.id for image in images}
    id_of_file = {image.path: image.id for image in images}
    for part in others:
        category_of = _join_categories(categories, part.categories)
        free = max(used, default=0) + 1
        image_of: dict[int, int] = {}
        for image in part.images:
            if image.path in id_of_file:
                image_of[image.id] = id_of_file[image.path]
                continue
            if image.id in used:
                image_of[image.id] = free
                free += 1
            else:
                image_of[image.id] = image.id
            images.append(replace(image, id=image_of[image.id]))
        used |= set(image_of.values())
        id_of_file |= {image.path: image_of[image.id] for image in part.images}
        free = max(free, max(used, default=0) + 1)
        # Ids that the part itself doesn't list stay unknown: those of no image or category.
        owners.append(_renamed(part.image_ids, image_of, -1 - free))
        unknown = min(-1, *(category.id for category in categories)) - 1
        labels.append(_renamed(part.category_ids, category_of, unknown))
    xywh = [part.xywh for part in parts if part.xywh is not None]
    ends = np.cumsum([len(part.image_ids) for part in parts])

    def describe(n: int) -> str:
        which = int(np.searchsorted(ends, n, side="right"))
        start = int(ends[which - 1]) if which else 0
        return f"{parts[which].describe(n - start)} of {Path(parts[which].source).name}"

    joined = RawAnnotations(
        source=first.source,
        categories=tuple(categories),
        images=images,
        image_ids=np.concatenate(owners),
        category_ids=np.concatenate(labels),
        boxes=np.concatenate([part.boxes for part in parts]),
        crowd=np.concatenate([part.crowd for part in parts]),
        area=np.concatenate([part.area for part in parts]),
        describe=describe,
        normalized=first.normalized,
        xywh=np.concatenate(xywh) if len(xywh) == len(parts) else None,
        order=first.order if len({part.order for part in parts}) == 1 else None,
        made_up_ids=True,  # categories of several files have names in common, not ids
    )
    part_of = np.repeat(np.arange(len(parts)), [len(part.image_ids) for part in parts])
    twins = _repeated_boxes(joined, part_of)
    problems.warn(
        len(twins),
        "box boxes",
        "in several annotation files, used once",
        describe(int(twins[0])) if len(twins) else "",
    )
    return joined.take(np.setdiff1d(np.arange(len(part_of)), twins)) if len(twins) else joined


def _repeated_boxes(raw: RawAnnotations, part_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows whose image, category, box and crowd flag equal those of an earlier part."""
    columns = (raw.image_ids.tolist(), raw.category_ids.tolist(), raw.crowd.tolist(), raw.boxes)
    first_part: dict[tuple[int, int, bool, bytes], int] = {}
    twins = []
    for row, (image, category, crowd, box) in enumerate(zip(*columns, strict=True)):
        part = int(part_of[row])
        if first_part.setdefault((image, category, crowd, box.tobytes()), part) < part:
            twins.append(row)
    return np.array(twins, np.int64)


def _join_categories(known: list[Category], own: Sequence[Category]) -> dict[int, int]:
    """Map from a part's category ids to the joined ones; new categories are added to ``known``."""
    by_name = {category.name: category.id for category in reversed(known)}
    renamed = {}
    for category in own:
        if category.name not in by_name:
            taken = {c.id for c in known}
            number = category.id if category.id not in taken else max(taken) + 1
            known.append(Category(number, category.name))
            by_name[category.name] = number
        renamed[category.id] = by_name[category.name]
    return renamed


def _renamed(ids: NDArray[np.int64], new: dict[int, int], unknown: int) -> NDArray[np.int64]:
    values, inverse = np.unique(ids, return_inverse=True)
    table = np.array([new.get(value, unknown) for value in values.tolist()], np.int64)
    return np.asarray(table[inverse], np.int64) if len(values) else ids
