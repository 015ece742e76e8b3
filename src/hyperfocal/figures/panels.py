"""Detections next to ground truth for several images in one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperfocal.figures import style
from hyperfocal.figures.annotate import Pixels, annotate

TILE = 480
"""Longer side of an image in the panel, in pixels."""


@dataclass(frozen=True)
class PanelRow:
    """One image with ground truth and detections; boxes are xyxy in pixels of the image.

    Attributes:
        image: ``(H, W, 3)`` uint8 RGB.
        gt_boxes: ``(N, 4)``.
        gt_labels: ``(N,)`` in ``0..K-1``.
        boxes: ``(M, 4)`` detections to draw.
        scores: ``(M,)``.
        labels: ``(M,)`` in ``0..K-1``.
    """

    image: Pixels
    gt_boxes: NDArray[np.floating[Any]]
    gt_labels: NDArray[np.int64]
    boxes: NDArray[np.floating[Any]]
    scores: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]


def detection_panel(rows: Sequence[PanelRow], out: str | Path, names: Sequence[str]) -> Path:
    """Plot each image with ground truth on the left and with detections on the right.

    Args:
        rows: the images, at least one.
        out: image file to write; the extension determines the format.
        names: category names by label.

    Returns:
        ``out``.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("detection_panel: no rows to draw")
    pairs = [_pair(row, names) for row in rows]
    columns = 1 if len(pairs) <= 2 else 2
    lines = math.ceil(len(pairs) / columns)
    aspect = max(truth.shape[0] / truth.shape[1] for truth, _ in pairs)
    figure = style.new_figure(columns * 6.6, 0.3 + lines * 3.3 * aspect)
    axes = figure.subplots(lines, 2 * columns, squeeze=False)
    for index in range(lines * columns):
        line, column = divmod(index, columns)
        cells = axes[line, 2 * column : 2 * column + 2]
        for cell in cells:
            cell.axis("off")
        if index < len(pairs):
            for cell, pixels in zip(cells, pairs[index], strict=True):
                cell.imshow(pixels, interpolation="antialiased")
        if line == 0:
            cells[0].set_title("ground truth", fontsize=10)
            cells[1].set_title("detections", fontsize=10)
    return style.save(figure, out)


def _pair(row: PanelRow, names: Sequence[str]) -> tuple[Pixels, Pixels]:
    """Both images, scaled so that labels are readable for any image size."""
    height, width = row.image.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(Image.fromarray(row.image).resize(size, Image.Resampling.BICUBIC))
    truth = annotate(image, row.gt_boxes * scale, row.gt_labels, names)
    found = annotate(image, row.boxes * scale, row.labels, names, row.scores)
    return truth, found
