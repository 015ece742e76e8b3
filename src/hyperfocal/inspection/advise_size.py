"""Image size: large enough for small boxes, but not beyond the resolution of the images."""

from __future__ import annotations

import numpy as np

from hyperfocal.experiment import Experiment
from hyperfocal.inspection.anchors import SMALL
from hyperfocal.inspection.measure import Measurements
from hyperfocal.inspection.proposal import PAPER, Proposal

SOURCE = f"{PAPER}, Table 1e: from 400 to 800 px AP of small objects rises from 11.2 to 18.9"

MAX_GROWTH = 1.5
"""Maximum factor on the recipe's size; time and memory grow with its square."""

MAX_UPSCALE = 5 / 3
"""Maximum enlargement of images: COCO's, 480 px high, are trained at 800."""

SMALL_SHARE = 0.1
"""The quantile of box sizes that should not be small."""


def advise_size(experiment: Experiment, measured: Measurements) -> Proposal:
    """Increase the shorter side until small objects measure 32 pixels; see `_small_side`."""
    settings = experiment.data.train_transform
    shorts = settings.shorts
    now = max(shorts)
    if not len(measured.table.boxes):
        return Proposal("image size", (), "there are no boxes to measure", SOURCE)
    side = _small_side(measured)
    found = (
        f"after the resize to {now} px, small objects (a tenth of all boxes, or the median box of "
        f"a tenth of the categories) measure {side:.0f} px or less (square root of the area)"
    )
    limit = min(MAX_GROWTH * now, MAX_UPSCALE * measured.native_short)
    wanted = min(now * SMALL / max(side, 1e-6), limit)
    size = int(wanted // 32 * 32)
    if side >= SMALL:
        return Proposal("image size", (), f"{found}: large enough, keep it", SOURCE)
    if size <= now:
        why = f"the images themselves are only {measured.native_short:.0f} px"
        return Proposal("image size", (), f"{found}, but {why}: keep it", SOURCE)
    factor = size / now
    longest = int(np.ceil(settings.long * factor / 32) * 32)
    train = [str(int(round(short * factor / 32) * 32)) for short in shorts]
    flags = (
        *("--data.train-transform.short", *train),
        *("--data.train-transform.long", str(longest)),
        *("--data.val-transform.short", str(size)),
        *("--data.val-transform.long", str(longest)),
    )
    reason = (
        f"{found}; at {size} px that is {side * factor:.0f} px. A step takes about "
        f"{factor**2:.1f} times as long"
    )
    return Proposal("image size", flags, reason, SOURCE)


def _small_side(measured: Measurements) -> float:
    """The tenth percentile of the boxes' sides, or of the categories' median sides if less.

    AP is a mean over categories, so a category of small objects counts however rare it is.
    """
    side, labels = measured.table.side, measured.table.labels
    typical = [float(np.median(side[labels == k])) for k in np.unique(labels)]
    of_categories = float(np.quantile(typical, SMALL_SHARE, method="lower"))
    return min(float(np.quantile(side, SMALL_SHARE)), of_categories)
