"""Detection of boxes whose unit, order or scale isn't that of their format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.formats.raw import Problems, RawAnnotations, RawImage, counted
from hyperfocal.data.images import Header
from hyperfocal.files import shown

LEAST_SIDE = 8
"""Pixels of an image's shorter side from which boxes of one pixel are impossible."""

SLACK = 1.0
"""Pixels that boxes may stand out of their image, as annotation tools round."""

LEAST_BOXES = 4
"""Boxes from which the order of their four numbers is judged."""

DOUBTFUL = 0.1
"""Share of boxes that must be impossible as written before another order is considered."""

NEARLY_ALL = 0.99
"""Share of boxes that the other order or scale must fit."""

EVIDENCE = math.log(100)
"""Log odds from which a scale is believed where less than half of the images have it."""


@dataclass(frozen=True)
class WrongUnits:
    """Boxes whose unit or order isn't that of their format.

    Attributes:
        kind: ``fractions`` (of the image's size instead of pixels), or ``box_order`` (another order
            or meaning of the four numbers).
        text: what is wrong and how to correct it.
        rows: indices of the annotations that are impossible as written.
    """

    kind: Literal["fractions", "box_order"]
    text: str
    rows: NDArray[np.int64]


# --------------------------------------------------------------------------- units


def in_file_pixels(
    raw: RawAnnotations, headers: Mapping[int, Header], problems: Problems
) -> tuple[RawAnnotations, WrongUnits | None]:
    """Scale boxes to the image files if they were annotated on copies of another size.

    Args:
        raw: the annotations, with the annotated sizes.
        headers: headers of the image files that were opened, by image id.
        problems: collects a warning for scaled boxes, and one if a few boxes seem to be fractions.

    Returns:
        The annotations in pixels of the files; and a `WrongUnits` if most boxes are fractions of
        the image or have another order, else None.
    """
    sizes = image_sizes(raw, headers)
    if (wrong := _fractions(raw, sizes, problems)) is not None:
        return raw, wrong
    raw = _scale_to_files(raw, headers, problems)
    return raw, _order(raw, sizes)


def image_sizes(raw: RawAnnotations, headers: Mapping[int, Header]) -> NDArray[np.float64]:
    """``(N, 2)`` height and width of each annotation's image, NaN where unknown.

    Args:
        raw: the annotations, whose sizes are used for images without a header.
        headers: of the image files, by image id.
    """
    hw: dict[int, tuple[int, int] | None] = {image.id: image.hw for image in raw.images}
    hw |= {image: header.hw for image, header in headers.items()}
    ids, inverse = np.unique(raw.image_ids, return_inverse=True)
    table = np.array([hw.get(i) or (np.nan, np.nan) for i in ids.tolist()], dtype=np.float64)
    return np.asarray(table.reshape(-1, 2)[inverse])


def _fractions(
    raw: RawAnnotations, sizes: NDArray[np.float64], problems: Problems
) -> WrongUnits | None:
    boxes = raw.boxes
    with np.errstate(invalid="ignore"):
        good = np.isfinite(boxes).all(axis=1) & ~(sizes.min(axis=1) < LEAST_SIDE)
        good &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        # Up to 1.5, because Pascal VOC's corners are one pixel further to the left.
        tiny = good & (np.abs(boxes) <= 1.5).all(axis=1)
        tiny &= (boxes[:, 2:] - boxes[:, :2] <= 2).all(axis=1)
    rows = np.flatnonzero(tiny)
    if raw.normalized or not len(rows):
        return None
    where = "in the first pixel of their image, as if they were fractions of its width and height"
    if 2 * len(rows) < good.sum():
        problems.warn(len(rows), "box boxes", where, raw.describe(int(rows[0])), rows.tolist())
        return None
    count = f"{len(rows)} of {counted(int(good.sum()), 'box boxes')}"
    text = (
        f"{count} are {where}, but this format's are in pixels; multiply x and width by the "
        "image's width, y and height by its height"
    )
    return WrongUnits("fractions", text, rows)


_AS_WRITTEN = {"xywh": "x y width height", "cxcywh": "cx cy w h", "xyxy": "x1 y1 x2 y2"}


def _order(raw: RawAnnotations, sizes: NDArray[np.float64]) -> WrongUnits | None:
    """Check for corners written as a corner (or centre) and a size, or the other way round.

    If two corners are interpreted as a corner and a size, boxes that aren't near the top left
    extend beyond the image, while interpreted as corners all of them fit. Correct boxes never look
    like this, because the size would have to be larger than the corner in nearly every box, in both
    directions. If a corner and a size are interpreted as two corners, boxes that aren't near the
    top left have a negative size, while interpreted correctly all of them fit.
    """
    good = np.isfinite(raw.boxes).all(axis=1) & np.isfinite(sizes).all(axis=1)
    if raw.order is None or good.sum() < LEAST_BOXES:
        return None
    x1, y1, x2, y2 = raw.boxes[good].T
    height, width = np.ones_like(sizes[good].T) if raw.normalized else sizes[good].T
    slack = 0.01 if raw.normalized else SLACK
    if raw.order == "xyxy":
        wrong = (x2 < x1) | (y2 < y1)
        fits = (x1 + x2 <= width + slack) & (y1 + y2 <= height + slack) & (x2 > 0) & (y2 > 0)
        seems, how = "xywh", "are inside out"
    else:
        w, h = x2 - x1, y2 - y1
        x, y = ((x1 + x2) / 2, (y1 + y2) / 2) if raw.order == "cxcywh" else (x1, y1)
        over = np.max([x2 / width - 1, y2 / height - 1, -x1 / width, -y1 / height], axis=0)
        wrong = (x2 > width + slack) | (y2 > height + slack) | (x1 < -slack) | (y1 < -slack)
        # Boxes of large objects may stand out a little, and fit by chance.
        if wrong.any() and np.median(over[wrong]) < 0.02:
            return None
        fits = (w > x) & (h > y) & (w <= width + slack) & (h <= height + slack)
        seems, how = "xyxy", "leave their image"
    if not wrong.any() or wrong.mean() < DOUBTFUL or fits.mean() < NEARLY_ALL:
        return None
    other = _AS_WRITTEN[seems]
    text = (
        f"the boxes seem to be {other} where {_AS_WRITTEN[raw.order]} is meant: as written, "
        f"{wrong.mean():.0%} of them {how}; as {other}, {fits.mean():.1%} fit. Convert them"
    )
    return WrongUnits("box_order", text, np.flatnonzero(good)[np.flatnonzero(wrong)])


# --------------------------------------------------------------------------- scale


class _Frame(NamedTuple):
    """The annotated size of an image and the size of its file, ``(height, width)``."""

    annotated: tuple[int, int]
    file: tuple[int, int]

    @property
    def evidence(self) -> float:
        """Log of the areas' ratio: positive if the annotated size is the smaller one."""
        return math.log(self.file[0] * self.file[1]) - math.log(
            self.annotated[0] * self.annotated[1]
        )


def _scale_to_files(
    raw: RawAnnotations, headers: Mapping[int, Header], problems: Problems
) -> RawAnnotations:
    """Scale boxes that were annotated on copies of another size.

    For images whose annotated size differs from the file's, boxes are considered to be in pixels of
    the smaller of the two sizes if nearly all of them fit into it, else of the larger one. If that
    is the annotated size, the boxes are scaled to the file, each axis separately. Boxes are only
    scaled if half of the images differ in size, or if so many boxes fit that it can't be by chance:
    the boxes of a single image with a wrong size are kept.

    Args:
        raw: the annotations, with the annotated sizes.
        headers: headers of the readable image files, by image id.
        problems: collects one warning with their number.

    Returns:
        The annotations in pixels of the files. Areas of scaled boxes become NaN.
    """
    if raw.normalized:
        return raw
    frames = {
        image.id: frame
        for image in raw.images
        if image.id in headers and (frame := _differing(image, headers[image.id])) is not None
    }
    rows = np.flatnonzero(
        np.isin(raw.image_ids, np.array(list(frames), np.int64))
        & np.isfinite(raw.boxes).all(axis=1)
    )
    if not len(rows):
        return raw
    own = [frames[image] for image in raw.image_ids[rows].tolist()]
    annotated = np.array([frame.annotated for frame in own], np.float64)
    file = np.array([frame.file for frame in own], np.float64)
    evidence = sum(frame.evidence for frame in own)
    fit_annotated = _share_inside(raw.boxes[rows], annotated)
    fit_file = _share_inside(raw.boxes[rows], file)
    is_annotated = fit_annotated >= NEARLY_ALL and (fit_file < NEARLY_ALL or evidence > 0)
    enough = 2 * len(frames) >= len(headers) or abs(evidence) >= EVIDENCE
    if not (is_annotated and enough):
        return raw
    boxes, area = raw.boxes.copy(), raw.area.copy()
    boxes[rows] *= (file / annotated)[:, [1, 0, 1, 0]]
    area[rows] = np.nan
    first = next(image for image in raw.images if image.id in frames)
    before, after = frames[first.id]
    problems.warn(
        len(frames),
        "image images",
        "annotated at another size than the files have; their boxes were scaled to the files",
        f"image id {first.id}, {shown(first.name)}, {before[1]}x{before[0]} in the annotations and "
        f"{after[1]}x{after[0]} on the disk",
    )
    return replace(raw, boxes=boxes, area=area)


def _differing(image: RawImage, header: Header) -> _Frame | None:
    """Both sizes, if they differ by more than one percent and not only by EXIF rotation."""
    before, after = image.hw, header.hw
    if before is None or before == header.stored_hw:
        return None
    if header.stored_hw != after and _shape_error(before, after) > _shape_error(
        before, header.stored_hw
    ):
        before = before[1], before[0]  # the size from before EXIF's rotation
    near = all(abs(a / b - 1) < 0.01 for a, b in zip(after, before, strict=True))
    return None if near else _Frame(before, after)


def _shape_error(first: tuple[int, int], second: tuple[int, int]) -> float:
    return abs(math.log(first[0] / first[1]) - math.log(second[0] / second[1]))


def _share_inside(boxes: NDArray[np.float64], hw: NDArray[np.float64]) -> float:
    return float((boxes[:, 2:] <= 1.01 * hw[:, ::-1] + SLACK).all(axis=1).mean())
