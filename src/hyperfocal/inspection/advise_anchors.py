"""Anchor sizes and ratios: the fewest that match nearly all boxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hyperfocal.experiment import Experiment
from hyperfocal.inspection.anchors import BoxTable, best_iou, level_strides
from hyperfocal.inspection.measure import Measurements
from hyperfocal.inspection.proposal import PAPER, Proposal
from hyperfocal.models import AnchorGenerator, RetinaNet

SOURCE = (
    f"{PAPER}, section 4 (positive at IoU 0.5) and Table 1c: 2 or 3 sizes in 3 ratios are best, "
    "more add nothing"
)

GOOD_ENOUGH = 0.01
"""Fraction of boxes without an anchor that needs no change."""

BETTER_BY = 0.5
"""A change must reduce the boxes without an anchor to this fraction, or less."""

EXTRA_PRICE = 0.0005
"""Fraction of boxes that an additional anchor per location must gain."""

_SAMPLE = 20_000


def advise_anchors(experiment: Experiment, measured: Measurements) -> Proposal:
    """Sizes and ratios computed from the boxes, if the recipe's anchors miss too many of them."""
    model, fit = experiment.model, measured.fit
    if not isinstance(model, RetinaNet.Config) or fit is None:
        reason = (
            f"{model.kind} selects the positives of each object by rank or location, not by a "
            "fixed IoU, so every object has some: keep the recipe's"
        )
        return Proposal("anchors", (), reason, "Zhang et al., CVPR 2020 (ATSS)")
    found = f"{fit.share:.2%} of the boxes have no anchor with IoU {fit.positive:g} or more"
    if fit.share <= GOOD_ENOUGH:
        return Proposal("anchors", (), f"{found}: keep the recipe's", SOURCE)
    table = _sample(fit.table)
    strides = level_strides(experiment)

    def missed(anchors: AnchorGenerator.Config) -> float:
        return float((best_iou(table, anchors, strides) < fit.positive).mean())

    priced = [(missed(c) + EXTRA_PRICE * c.per_location, c) for c in _candidates(model, table)]
    price, best = min(priced, key=lambda pair: pair[0])
    share = price - EXTRA_PRICE * best.per_location
    if share > BETTER_BY * fit.share:
        reason = f"{found}; no set of up to 15 shapes misses fewer than {share:.2%}: keep them"
        return Proposal("anchors", (), reason, SOURCE)
    flags = (
        *("--model.anchors.base-scales", *(f"{s:g}" for s in best.base_scales)),
        *("--model.anchors.ratios", *(f"{r:g}" for r in best.ratios)),
        *("--model.anchors.scales-per-octave", str(best.scales_per_octave)),
    )
    sizes = ", ".join(f"{min(strides) * scale:g}" for scale in best.base_scales)
    reason = (
        f"{found}; with anchors of at least {sizes} px and ratios (height / width) "
        f"{', '.join(f'{r:g}' for r in best.ratios)}, computed from the boxes, {share:.2%} "
        f"({best.per_location} anchors per location instead of {model.anchors.per_location})"
    )
    return Proposal("anchors", flags, reason, SOURCE)


def _candidates(model: RetinaNet.Config, table: BoxTable) -> Iterator[AnchorGenerator.Config]:
    """The recipe's anchors, and sets whose smallest size and ratios are quantiles of the boxes'."""
    own = model.anchors
    log_ratio = np.log2(table.ratio)
    ratios = [own.ratios]
    for number in (3, 5):
        places = (np.arange(number) + 0.5) / number
        found = np.exp2(np.quantile(log_ratio, places))
        ratios.append(tuple(sorted({round(float(r), 2) for r in found})))
    smallest = float(np.quantile(table.side, 0.02)) / 8
    scales = {own.base_scales}
    for scale in (1.0, 1.5, 2.0, 2.5, 3.0):
        if scale >= min(smallest, 3.0) / 1.3:
            scales |= {(scale,), (scale, 2 * scale)} if scale <= 2 else {(scale,)}
    for base in sorted(scales):
        for values in ratios:
            if all(value > 0 for value in values):
                octaves = {own.scales_per_octave, 2, 3} if len(base) == 1 else {2}
                for number in sorted(octaves):
                    candidate = replace(
                        own, base_scales=base, ratios=values, scales_per_octave=number
                    )
                    if candidate.per_location <= max(15, own.per_location):
                        yield candidate


def _sample(table: BoxTable) -> BoxTable:
    if len(table.boxes) <= _SAMPLE:
        return table
    some = np.random.default_rng(0).permutation(len(table.boxes))[:_SAMPLE]
    return BoxTable(
        table.boxes[some], table.hw[some], table.labels[some], table.image[some], table.row[some]
    )
