"""Checks of parsed annotations, which produce a valid `AnnotationSet`.

All formats are checked in the same way. For problems that can be corrected there is one warning per
kind, which gives their number; others are errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.box_units import in_file_pixels
from hyperfocal.data.category_labels import labels_by_id, labels_of_boxes
from hyperfocal.data.formats.lvis import with_labels
from hyperfocal.data.formats.openimages_split import relabelled
from hyperfocal.data.formats.raw import Problems, RawAnnotations, RawImage
from hyperfocal.data.image_checks import BadImages, Check, check_images, links_out
from hyperfocal.data.images import Header
from hyperfocal.files import shown
from hyperfocal.names import one_name
from hyperfocal.types import (
    AnnotationSet,
    Category,
    DataError,
    ImageRecord,
)
from hyperfocal.xywh import written_xywh

MAX_OVERHANG = 1.0
"""Pixels that a box may stand out of its image and be left as it is.

Annotation tools round, and some count pixels from 1. Left alone, such a box also evaluates exactly
as the reference evaluators do, which never look at the image's size.
"""


MAX_COORDINATE = 1e9
"""Pixels; a box further out is treated as one that isn't finite."""


def check_annotations(
    raw: RawAnnotations,
    categories: Sequence[Category] | None,
    check: Check,
    bad_images: BadImages,
    problems: Problems | None = None,
    headers: Sequence[Header | DataError] | None = None,
    follow_links: bool = False,
) -> AnnotationSet:
    """Check and correct parsed annotations, and group them by image.

    Args:
        raw: the parsed annotations.
        categories: categories of the training split, in label order, to which labels refer; None:
            those of the source.
        check: how image files are checked, see `hyperfocal.data.read_annotations`.
        bad_images: what to do with image files that can't be used.
        problems: collects errors and warnings; None raises and warns.
        headers: headers of ``raw.images`` from `look_at_images`, if they were read before.
        follow_links: use image files that are links out of the image folder.

    Raises:
        DataError: see `hyperfocal.data.read_annotations`.
    """
    problems = problems or Problems(raw.source)
    if not raw.images:
        raise DataError(f"{raw.source}: no images in it; is it the right file?")
    if not raw.categories and not categories:
        raise DataError(f"{raw.source}: no categories in it; list them, or give other annotations")
    _check_unique(raw, problems)
    if not follow_links:
        for image in links_out(raw.images):
            problems.errors.append(
                f"image id {image.id}: {image.path} is a link out of the image folder; put the "
                "file itself there, or trust such links with --data.follow-links"
            )
    label_of = labels_by_id(raw, categories, problems)
    labels = labels_of_boxes(raw, label_of, problems)
    problems.raise_errors()

    images, left_out, opened = check_images(raw, check, bad_images, problems, headers)
    raw, wrong = in_file_pixels(raw, opened, problems)
    if wrong is not None:
        problems.errors.append(wrong.text)
        problems.raise_errors()
    rows = _rows(raw, images, left_out, problems)
    boxes, area = raw.boxes.astype(np.float64), raw.area.astype(np.float64)
    sizes = np.array([image.hw for image in images], dtype=np.float64).reshape(-1, 2)
    if raw.normalized:
        boxes = boxes * sizes[rows][:, [1, 0, 1, 0]]
    keep = (rows >= 0) & (labels >= 0)
    clipped = _check_boxes(raw, boxes, sizes[rows], keep, check != "none", problems)
    with np.errstate(invalid="ignore", over="ignore"):
        box_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        stated = np.isfinite(area) & ~(clipped & (area > box_area))
        stated &= (area > 0) | (check == "none")
    area = np.where(stated, area, box_area)
    if not (keep & ~raw.crowd).any():
        crowds = int((keep & raw.crowd).sum())
        why = "no usable boxes in it, so there is nothing to learn or to measure"
        if crowds:
            why = (
                f"all {crowds} usable boxes are marked crowd (iscrowd 1), "
                "which are never trained on or measured; set iscrowd to 0 for single objects"
            )
        problems.errors.append(why)
    problems.report()

    order = np.flatnonzero(keep)[np.argsort(rows[keep], kind="stable")]
    ends = np.searchsorted(rows[order], np.arange(len(images) + 1))
    boxes, label, crowd, area = boxes[order], labels[order], raw.crowd[order], area[order]
    xywh = None if raw.xywh is None else raw.xywh[order]
    records = []
    for n, image in enumerate(images):
        part = slice(ends[n], ends[n + 1])
        assert image.hw is not None
        own = boxes[part]
        exact = None if xywh is None else written_xywh(own, xywh[part])
        record = ImageRecord(
            image.id, image.path, *image.hw, own, label[part], crowd[part], area[part], xywh=exact
        )
        records.append(record)
    known = tuple(categories) if categories else raw.categories
    federated = None
    if raw.federated is not None:
        row_of = {label_of.get(c.id): row for row, c in enumerate(raw.categories)}
        own_rows = [row_of.get(label, -1) for label in range(len(known))]
        federated = with_labels(raw.federated, label_of, own_rows)
    lists = None
    if raw.openimages is not None:
        new = [label_of.get(category.id) for category in raw.categories]
        lists = relabelled(raw.openimages, new, len(known))
    return AnnotationSet(raw.source, known, tuple(records), federated, lists)


def _check_unique(raw: RawAnnotations, problems: Problems) -> None:
    for kind, ids in (
        ("image", [image.id for image in raw.images]),
        ("category", [category.id for category in raw.categories]),
    ):
        for value in _repeated(ids):
            problems.errors.append(f"{kind} id {value} is used more than once; ids must differ")
    files = _repeated(image.path for image in raw.images)
    problems.warn(
        len(files),
        "file files",
        "listed under several image ids",
        one_name(files[0].name) if files else "",
    )
    names = _repeated(category.name for category in raw.categories)
    problems.warn(
        len(names), "name names", "used by several categories", shown(names[0]) if names else ""
    )


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _rows(
    raw: RawAnnotations, images: Sequence[RawImage], dropped: Sequence[int], problems: Problems
) -> NDArray[np.int64]:
    """Index in ``images`` of each annotation's image; -1 for an unknown image."""
    ids = np.array([image.id for image in images], dtype=np.int64)
    order = np.argsort(ids)
    place = np.searchsorted(ids[order], raw.image_ids).clip(max=len(ids) - 1)
    rows: NDArray[np.int64] = order[place].astype(np.int64)
    rows[ids[rows] != raw.image_ids] = -1
    unknown = np.flatnonzero((rows < 0) & ~np.isin(raw.image_ids, np.array(dropped, np.int64)))
    problems.warn(
        len(unknown),
        "annotation annotations",
        "of unknown images left out",
        f"{raw.describe(int(unknown[0]))}, image id {raw.image_ids[unknown[0]]}"
        if len(unknown)
        else "",
        unknown.tolist(),
    )
    return rows


def _check_boxes(
    raw: RawAnnotations,
    boxes: NDArray[np.float64],
    sizes: NDArray[np.float64],
    keep: NDArray[np.bool_],
    repair: bool,
    problems: Problems,
) -> NDArray[np.bool_]:
    """Clear ``keep`` for unusable boxes and clip ``boxes``, both in place; returns which were
    clipped."""

    def warn(bad: NDArray[np.bool_], what: str) -> None:
        cases = np.flatnonzero(bad & keep)
        first = ""
        if len(cases):
            n = int(cases[0])
            first = f"{raw.describe(n)}, image id {raw.image_ids[n]}, {_box(boxes[n])}"
        problems.warn(len(cases), "box boxes", what, first, cases.tolist())

    # Beyond MAX_COORDINATE float32, which training uses, would overflow sooner or later.
    bad = np.asarray(~(np.abs(boxes) <= MAX_COORDINATE).all(axis=1))
    warn(bad, "missing or not finite, left out")
    keep &= ~bad
    if not repair:
        return np.zeros_like(keep)
    boxes[bad] = 0
    x1, y1, x2, y2 = boxes.T
    bad = np.logical_or(x2 < x1, y2 < y1)
    warn(bad, "inside out (x2 < x1 or y2 < y1: a negative width or height), left out")
    keep &= ~bad
    bad = np.logical_or(x2 <= x1, y2 <= y1)
    warn(bad, "without area, left out")
    keep &= ~bad
    height, width = sizes.T
    bad = (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0)
    warn(bad, "outside the image, left out")
    keep &= ~bad
    overhang = np.max([-x1, -y1, x2 - width, y2 - height], axis=0, initial=0)
    over: NDArray[np.bool_] = keep & (overhang > MAX_OVERHANG)
    warn(over, "partly outside the image, clipped")
    limit = np.stack([width, height, width, height], axis=1)
    boxes[over] = np.clip(boxes[over], 0, limit[over])
    return over


def _box(box: NDArray[np.float64]) -> str:
    return "xyxy " + " ".join(f"{value:g}" for value in box)
