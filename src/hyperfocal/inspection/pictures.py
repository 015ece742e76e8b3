"""Thumbnails of cases, as data URIs for HTML."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, ImageDraw

from hyperfocal.data.images import read_image
from hyperfocal.inspection.findings import Case
from hyperfocal.types import DataError

SIDE = 320
"""Longest side of a thumbnail, in pixels."""

_COLOUR = (213, 94, 0)


def case_pictures(case: Case) -> list[str]:
    """Data URIs of the image of a case, with its box, and of the other image if there is one.

    Files that can't be read are skipped.
    """
    pictures = []
    for path, box in ((case.image, case.box), (case.other, None)):
        if path is None:
            continue
        try:
            pictures.append(_picture(Path(path), box))
        except (DataError, OSError, ValueError):
            continue
    return pictures


def _picture(path: Path, box: tuple[float, float, float, float] | None) -> str:
    image = Image.fromarray(read_image(path).permute(1, 2, 0).numpy())
    scale = min(1.0, SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if box is not None:
        draw = ImageDraw.Draw(image)
        x1, y1, x2, y2 = (min(max(v * scale, -2.0), 2.0 * SIDE) for v in box)
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        # A margin of two pixels, so that small boxes are visible.
        draw.rectangle((x1 - 2, y1 - 2, x2 + 2, y2 + 2), outline=_COLOUR, width=2)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
