"""How well a recipe's anchors match the boxes after its resize, computed without all anchors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperfocal.assign import MaxIoUAssigner
from hyperfocal.data import TransformConfig, resized_hw
from hyperfocal.experiment import Experiment
from hyperfocal.inspection.findings import Case, Finding, Severity
from hyperfocal.models import AnchorGenerator, RetinaNet, as_dense
from hyperfocal.names import one_name
from hyperfocal.types import AnnotationSet

SMALL, LARGE = 32.0, 96.0
"""COCO's bounds between small, medium and large boxes: square root of the area, in pixels."""

MAX_BOXES = 200_000
"""Number of boxes measured; of more, a random sample."""

WORTH_WARNING = 0.01
"""Fraction of boxes without an anchor that is a warning; a smaller one is a note."""

_CHUNK = 20_000


@dataclass(frozen=True)
class BoxTable:
    """Boxes of a split in the coordinates of the network's input.

    Attributes:
        boxes: ``(N, 4)`` xyxy pixels after the resize.
        hw: ``(N, 2)`` padded height and width of their images.
        labels: ``(N,)``.
        image: ``(N,)`` index in the split's images.
        row: ``(N,)`` index among the image's boxes.
    """

    boxes: NDArray[np.float64]
    hw: NDArray[np.int64]
    labels: NDArray[np.int64]
    image: NDArray[np.int64]
    row: NDArray[np.int64]

    @property
    def side(self) -> NDArray[np.float64]:
        """Square root of each box's area, in pixels."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return np.asarray(np.sqrt(sides.prod(axis=1)))

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Height / width of each box."""
        width, height = (self.boxes[:, 2:] - self.boxes[:, :2]).T
        return np.asarray(height / width)


def resized_boxes(
    annotations: AnnotationSet, settings: TransformConfig, divisor: int, seed: int = 0
) -> BoxTable:
    """The boxes after the resize; with scale jitter, at the median of the sizes.

    Crowd boxes are left out, as in training.
    """
    shorts = sorted(settings.shorts)
    short = shorts[len(shorts) // 2]
    images = annotations.images
    number = np.array([len(r.labels) for r in images], dtype=np.int64)
    image = np.repeat(np.arange(len(images)), number)
    if not len(image):
        none = np.zeros(0, np.int64)
        return BoxTable(np.zeros((0, 4)), np.zeros((0, 2), np.int64), none, none, none)
    row = np.concatenate([np.arange(n) for n in number])
    boxes = np.concatenate([r.boxes for r in images])
    labels = np.concatenate([r.labels for r in images])
    usable = ~np.concatenate([r.crowd for r in images])
    usable &= ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
    keep = np.flatnonzero(usable)
    if len(keep) > MAX_BOXES:
        keep = np.sort(np.random.default_rng(seed).choice(keep, MAX_BOXES, replace=False))
    known: dict[tuple[int, int], tuple[int, int]] = {}
    for record in images:
        hw = (record.height, record.width)
        if hw not in known:
            known[hw] = resized_hw(hw, short, settings)
    before = np.array([(r.height, r.width) for r in images], dtype=np.float64)[image[keep]]
    table = [known[r.height, r.width] for r in images]
    after = np.array(table, dtype=np.float64)[image[keep]]
    scale = (after / before)[:, [1, 0, 1, 0]]
    padded = (np.ceil(after / divisor) * divisor).astype(np.int64)
    return BoxTable(boxes[keep] * scale, padded, labels[keep], image[keep], row[keep])


def best_iou(
    table: BoxTable,
    anchors: AnchorGenerator.Config,
    strides: tuple[int, ...],
    advance: Callable[[int], None] = lambda boxes: None,
) -> NDArray[np.float64]:
    """The highest IoU of each box with any anchor, ``(N,)``.

    With w, h, u, v the sides of box and anchor and d the distance of their centres along an axis,
    the overlap along x is ``clip(min(w, u, (w + u) / 2 - |d|), 0)``. It never grows with |d|, and
    IoU grows with both overlaps, so the best location of an anchor shape is the one nearest to the
    box's centre, for each axis separately. N boxes and S shapes take N·S steps, whatever the
    number of locations. The result is the maximum over all anchors.
    """
    shapes = [base.double().numpy() for base in anchors.build(strides).bases]
    whole = anchors.style == "torchvision"
    best = np.zeros(len(table.boxes))
    for start in range(0, len(best), _CHUNK):
        part = slice(start, start + _CHUNK)
        boxes, hw = table.boxes[part], table.hw[part].astype(np.float64)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        for stride, base in zip(strides, shapes, strict=True):
            cells = np.ceil(hw / stride)
            step = np.floor(hw / cells) if whole else np.full_like(hw, stride)
            center = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2
            place = np.floor(center / step - anchors.center_offset + 0.5)
            place = np.clip(place, 0, cells - 1) + anchors.center_offset
            middle = (place * step)[:, [1, 0]]
            for shape in base:
                low = np.maximum(boxes[:, :2], middle + shape[:2])
                high = np.minimum(boxes[:, 2:], middle + shape[2:])
                inter = np.clip(high - low, 0, None).prod(axis=1)
                union = area + np.prod(shape[2:] - shape[:2]) - inter
                np.maximum(best[part], inter / union, out=best[part])
        advance(len(boxes))
    return best


def smallest_anchor(anchors: AnchorGenerator.Config, strides: tuple[int, ...]) -> float:
    """Square root of the smallest anchor's area, in pixels."""
    return min(strides) * min(anchors.base_scales)


def level_strides(experiment: Experiment) -> tuple[int, ...]:
    """Strides of a dense detector's pyramid, as in its config."""
    return as_dense(experiment.model).neck.strides


@dataclass(frozen=True)
class Fit:
    """How well anchors match boxes.

    Attributes:
        table: the boxes.
        best: ``(N,)`` highest IoU with an anchor.
        positive: IoU from which the recipe's assigner makes an anchor positive.
        kept: IoU from which it makes a box's best anchor positive anyway.
    """

    table: BoxTable
    best: NDArray[np.float64]
    positive: float
    kept: float

    @property
    def missed(self) -> NDArray[np.bool_]:
        """``(N,)``, True where no anchor has the positive IoU."""
        return np.asarray(self.best < self.positive)

    @property
    def share(self) -> float:
        """Fraction of boxes where no anchor has the positive IoU."""
        return float(self.missed.mean()) if len(self.best) else 0.0


def measure_fit(
    experiment: Experiment,
    annotations: AnnotationSet,
    advance: Callable[[int], None] = lambda boxes: None,
) -> Fit | None:
    """Match the recipe's anchors; None for detectors that don't assign by a fixed IoU."""
    model = experiment.model
    if not (isinstance(model, RetinaNet.Config) and type(model.assigner) is MaxIoUAssigner.Config):
        return None
    data = experiment.data
    table = resized_boxes(annotations, data.train_transform, data.divisor)
    best = best_iou(table, model.anchors, level_strides(experiment), advance)
    assigner = model.assigner
    least = {"off": assigner.positive, "from_neg_threshold": assigner.negative}
    return Fit(table, best, assigner.positive, least.get(assigner.low_quality, 0.0))


def check_anchors(
    experiment: Experiment, annotations: AnnotationSet, fit: Fit | None
) -> list[Finding]:
    """Boxes that are too small for the anchors, or of a shape or size that no anchor matches."""
    if fit is None or not len(fit.best):
        return []
    assert isinstance(experiment.model, RetinaNet.Config)
    table, names = fit.table, [one_name(category.name) for category in annotations.categories]
    findings = []
    least = smallest_anchor(experiment.model.anchors, level_strides(experiment))
    small = table.side < least
    if small.any():
        share = float(small.mean())
        order = np.flatnonzero(small)[np.argsort(table.side[small])]
        text = (
            f"{share:.1%} of the boxes are smaller than the smallest anchor ({least:g} px) after "
            f"the recipe's resize (median of all: {np.median(table.side):.0f} px), mostly: "
            f"{_by_category(small, table.labels, names)}"
        )
        severity: Severity = "warning" if share >= 0.05 else "note"
        cases = tuple(_case(annotations, table, n) for n in order[:20])
        findings.append(
            Finding(severity, "smaller_than_anchors", "train", text, int(small.sum()), cases)
        )
    missed = fit.missed
    if missed.any():
        lost = fit.best < fit.kept
        order = np.flatnonzero(missed)[np.argsort(fit.best[missed], kind="stable")]
        text = (
            f"{fit.share:.2%} of the boxes have no anchor with IoU {fit.positive:g} or more "
            f"({_by_size(missed, table)}; mostly: {_by_category(missed, table.labels, names)}). "
            f"The recipe's assigner assigns no anchor at all to {float(lost.mean()):.2%} of all "
            "boxes, so they are never learnt"
        )
        severity = "warning" if fit.share >= WORTH_WARNING else "note"
        cases = tuple(
            _case(annotations, table, n, f"best IoU {fit.best[n]:.2f}") for n in order[:20]
        )
        findings.append(Finding(severity, "no_anchor", "train", text, int(missed.sum()), cases))
    return findings


def _case(annotations: AnnotationSet, table: BoxTable, n: int, note: str = "") -> Case:
    record = annotations.images[table.image[n]]
    x1, y1, x2, y2 = (float(v) for v in record.boxes[table.row[n]])
    name = one_name(annotations.categories[int(table.labels[n])].name)
    size = " x ".join(f"{s:.0f}" for s in table.boxes[n, 2:] - table.boxes[n, :2])
    words = [f"{name}, {size} px after the resize", note]
    return Case(
        str(record.path), record.id, None, (x1, y1, x2, y2), ", ".join(w for w in words if w)
    )


def _by_size(chosen: NDArray[np.bool_], table: BoxTable) -> str:
    side = table.side
    parts = []
    for name, low, high in (
        ("small", 0.0, SMALL),
        ("medium", SMALL, LARGE),
        ("large", LARGE, math.inf),
    ):
        of_size = (side >= low) & (side < high)
        if of_size.any():
            parts.append(f"{name} {float(chosen[of_size].mean()):.1%}")
    return ", ".join(parts)


def _by_category(chosen: NDArray[np.bool_], labels: NDArray[np.int64], names: list[str]) -> str:
    total = np.bincount(labels, minlength=len(names))
    hit = np.bincount(labels[chosen], minlength=len(names))
    share = hit / np.maximum(total, 1)
    order = np.lexsort((-hit, -share))[:5]
    worth = [k for k in order if share[k] >= 0.01] or list(order[:1])
    return ", ".join(f"{names[k]} {share[k]:.0%} of {total[k]}" for k in worth)
