"""Draws boxes with names and scores on an image."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hyperfocal.figures.style import OKABE_ITO
from hyperfocal.fonts import image_label
from hyperfocal.types import Detections

Pixels = NDArray[np.uint8]


def annotate(
    image: Pixels,
    boxes: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    names: Sequence[str],
    scores: NDArray[np.floating[Any]] | None = None,
) -> Pixels:
    """A copy of an image with boxes, category names and, if given, scores.

    A category has the same colour in all images.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        boxes: ``(N, 4)`` xyxy pixels of ``image``.
        labels: ``(N,)`` in ``0..K-1``.
        names: ``K`` category names.
        scores: ``(N,)``, or None for ground truth.
    """
    sv = _supervision()
    if not len(boxes):
        return image.copy()
    found = sv.Detections(
        xyxy=np.asarray(boxes, dtype=np.float64), class_id=np.asarray(labels, dtype=np.int64)
    )
    labels_of = {label: image_label(names[label]) for label in set(found.class_id.tolist())}
    texts = [labels_of[label].text for label in found.class_id.tolist()]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, scores, strict=True)]
    palette = sv.ColorPalette.from_hex(list(OKABE_ITO))
    height, width = image.shape[:2]
    unit = (max(height, width) / 640) ** 0.6  # larger images are viewed from a greater distance
    # supervision draws in OpenCV's channel order.
    scene = np.ascontiguousarray(image[:, :, ::-1])
    scene = sv.BoxAnnotator(palette, thickness=max(1, round(2 * unit))).annotate(scene, found)
    fonts = np.array([labels_of[label].font for label in found.class_id.tolist()])
    for font in dict.fromkeys(fonts.tolist()):
        rows = fonts == font
        scene = sv.RichLabelAnnotator(
            palette,
            text_color=sv.ColorPalette.from_hex([_text_colour(c) for c in OKABE_ITO]),
            font_path=font,
            font_size=max(9, round(13 * unit)),
            text_padding=max(1, round(3 * unit)),
            smart_position=True,
        ).annotate(scene, found[rows], labels=list(itertools.compress(texts, rows)))
    return np.ascontiguousarray(scene[:, :, ::-1])


def draw_detections(
    image: Tensor,
    detections: Detections,
    names: Sequence[str],
    out: str | Path,
    *,
    score: float = 0.3,
) -> Path:
    """Save an image with the detections whose score is at least ``score``.

    Args:
        image: ``(3, H, W)`` uint8 RGB.
        detections: detections in pixels of the image.
        names: category names by label.
        out: image file to write; the extension determines the format.
        score: minimum score.

    Returns:
        ``out``.
    """
    kept = (detections.scores >= score).cpu().numpy()
    boxes, scores, labels = (
        t.detach().cpu().numpy()[kept]
        for t in (detections.boxes, detections.scores, detections.labels)
    )
    drawing = annotate(image.permute(1, 2, 0).cpu().numpy(), boxes, labels, names, scores)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawing).save(out, quality=92)
    return out


def _supervision() -> Any:
    with warnings.catch_warnings():
        # It also works without OpenCV, slightly slower.
        warnings.filterwarnings("ignore", message=".*[Oo]pen[Cc][Vv].*", category=UserWarning)
        import supervision
    return supervision


def _text_colour(background: str) -> str:
    """Black for light backgrounds, white for dark ones."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.3 * red + 0.59 * green + 0.11 * blue > 125 else "#ffffff"
