"""Boxes in another unit or scale than their format's, found by what all of them share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.raw import RawAnnotations, RawImage, counted
from hyperfocal.files import shown

LEAST_SIDE = 8
"""Pixels of an image's shorter side from which boxes of one pixel are impossible."""

SLACK = 1.0
"""Pixels that boxes may stand out of their image, as annotation tools round."""


def fractions(
    raw: RawAnnotations, boxes: NDArray[np.float64], sizes: NDArray[np.float64]
) -> str | None:
    """What is wrong if all boxes are smaller than a pixel: they are fractions of the image.

    Args:
        raw: the annotations.
        boxes: ``(N, 4)`` xyxy in pixels, as they would be used.
        sizes: ``(N, 2)`` height and width of each box's image; NaN where unknown.
    """
    good = np.isfinite(boxes).all(axis=1) & ~(sizes.min(axis=1) < LEAST_SIDE)
    if raw.normalized or not good.any():
        return None
    # Pascal VOC's corners are one pixel further to the left.
    if (np.abs(boxes[good]) > 1.5).any() or (boxes[good, 2:] - boxes[good, :2] > 2).any():
        return None
    return (
        f"all {counted(int(good.sum()), 'box boxes')} lie within the first pixel of their image: "
        "they seem to be fractions of its width and height, but this format's are in pixels; "
        "multiply x and width by the image's width, y and height by its height"
    )


def scale_to_files(
    raw: RawAnnotations, images: list[RawImage], boxes: NDArray[np.float64]
) -> tuple[int, str, str]:
    """Scale boxes in place that were drawn on copies of another size than the files.

    That is the case if the annotated size of every image differs from its file's by one factor for
    width and height (to a pixel), and every box lies inside the annotated size. Single images with
    a wrong size are something else: their boxes stay as they are.

    Args:
        raw: the annotations, with the annotated sizes.
        images: the same images with the sizes of their files.
        boxes: ``(N, 4)`` xyxy pixels of the annotated sizes.

    Returns:
        How many images, what was done, and the first case; 0 if nothing was.
    """
    stated = {image.id: image.hw for image in raw.images}
    factors: dict[int, float] = {}
    for image in images:
        before, after = stated[image.id], image.hw
        if raw.normalized or before is None or after is None or before == after:
            return 0, "", ""
        factor = max(after[0] / before[0], after[1] / before[1])
        least = min(after[0] / before[0], after[1] / before[1])
        pixel = 1.0 / min(before)  # one annotated pixel, as a factor
        if factor - least > pixel * max(factor, 1.0) or abs(factor - 1) < 0.01:
            return 0, "", ""
        factors[image.id] = (factor + least) / 2
    known = np.array([value in factors for value in raw.image_ids.tolist()], np.bool_)
    finite = known & np.isfinite(boxes).all(axis=1)
    if not finite.any():
        return 0, "", ""
    limits = np.array([stated[i] for i in raw.image_ids[finite].tolist()], np.float64)
    if (boxes[finite, 2:] > limits[:, ::-1] + SLACK).any():
        return 0, "", ""
    true = {image.id: image.hw for image in images}
    for row in np.flatnonzero(finite).tolist():
        before, after = stated[int(raw.image_ids[row])], true[int(raw.image_ids[row])]
        assert before is not None
        assert after is not None
        boxes[row] *= np.array([after[1] / before[1], after[0] / before[0]] * 2)
    first = images[0]
    before, after = stated[first.id], first.hw
    assert before is not None
    assert after is not None
    case = (
        f"image id {first.id}, {shown(first.name)}, {before[1]}x{before[0]} in the annotations and "
        f"{after[1]}x{after[0]} on the disk"
    )
    what = (
        "annotated at another size than the files have, each by one factor; their boxes were "
        "scaled to the files' pixels"
    )
    return len(images), what, case
