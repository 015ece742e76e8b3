"""Geometric and photometric transforms of a `Sample`.

Random parameters are chosen first, as a `Plan`, from the image's size, the settings and a random
generator. The size of a transformed image is therefore known without decoding it, and every process
can pad its share of a batch to the size of the whole batch.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from hyperfocal import config
from hyperfocal.types import ConfigError, Sample, Target

MIN_SIDE = 1e-2
"""Pixels; a box narrower or lower than this after a transform is dropped."""

MIN_VISIBLE = 0.25
"""A box with a smaller part of its area left by a zoom is dropped."""

FILL = 114
"""Grey value around an image that was zoomed out."""


@dataclass(frozen=True)
class TransformStep(config.Config, role=True):
    """Base class of user-defined transforms, applied after all others; the config is the transform.

    It may change pixels and boxes, but not the size of the image, because processes pad batches to
    sizes that are computed before images are decoded.
    """

    is_random: ClassVar[bool] = True
    """Whether results for the same image may differ; must be False for evaluation."""

    @abstractmethod
    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The transformed sample, created with `dataclasses.replace`.

        Args:
            sample: image ``(3, H, W)`` uint8, or float32 in [0, 1] with ``resize=bilinear_float``,
                and boxes in its frame.
            rng: source of all random choices, so that a run can be reproduced and resumed.
        """


@dataclass(frozen=True)
class TransformConfig(config.Config):
    """Settings of resizing and augmentation."""

    short: int | tuple[int, ...] = 800
    """Length of the shorter side in pixels; if several, one is chosen for each image (scale
    jitter)."""
    long: int = 1333
    """Maximum length of the longer side in pixels."""
    resize: Literal["antialias", "bilinear_float"] = "antialias"
    """uint8 with antialiasing, or float without, as torchvision's detection models resize."""
    min_box: float = 0.0
    """Boxes with a side of fewer pixels than this, in the original image, are not used for
    training."""
    flip: float = 0.0
    """Probability of a horizontal flip."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of a random zoom: above 1 crops, below 1 shrinks onto grey."""
    brightness: float = 0.0
    """Brightness is multiplied by a factor within 1 ± this."""
    contrast: float = 0.0
    """Contrast is multiplied by a factor within 1 ± this."""
    saturation: float = 0.0
    """Saturation is multiplied by a factor within 1 ± this."""
    hue: float = 0.0
    """Hue is rotated by up to this fraction of the circle, at most 0.5."""
    extra: TransformStep | None = None
    """User-defined transform after these: module:Class (docs/extend.md)."""

    def __post_init__(self) -> None:
        self._require(len(self.shorts) > 0 and min(self.shorts) >= 1, "short", "at least 1")
        self._require(self.long >= 1, "long", "at least 1")
        self._require(self.min_box >= 0, "min_box", "at least 0")
        self._require(0 <= self.flip <= 1, "flip", "a probability in [0, 1]")
        low, high = self.zoom
        self._require(0 < low <= high < math.inf, "zoom", "a range (low, high) above 0")
        for name in ("brightness", "contrast", "saturation"):
            self._require(0 <= getattr(self, name) <= 1, name, "in [0, 1]")
        self._require(0 <= self.hue <= 0.5, "hue", "in [0, 0.5]")

    @property
    def shorts(self) -> tuple[int, ...]:
        """``short`` as a tuple."""
        return (self.short,) if isinstance(self.short, int) else self.short

    @property
    def is_random(self) -> bool:
        """Whether two passes over one image may differ."""
        strengths = (self.flip, self.brightness, self.contrast, self.saturation, self.hue)
        own = self.extra is not None and self.extra.is_random
        return own or len(set(self.shorts)) > 1 or any(strengths) or self.zoom != (1.0, 1.0)


@dataclass(frozen=True)
class Plan:
    """Random parameters for one image.

    Attributes:
        hw: height and width of the result.
        flip: whether it is mirrored.
        zoom: scale beyond the resize to ``hw``.
        offset: position of the crop (or the shrunk image) within its range, y and x as fractions in
            [0, 1).
        colors: photometric changes in order, as (name, amount).
        seed: seed for ``TransformConfig.extra``.
    """

    hw: tuple[int, int]
    flip: bool = False
    zoom: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    colors: tuple[tuple[str, float], ...] = ()
    seed: int = 0


def transform(sample: Sample, settings: TransformConfig, rng: np.random.Generator) -> Sample:
    """Resize and vary one sample.

    Boxes are transformed exactly, without rounding to pixels. Boxes are dropped if a zoom crops
    them to less than a quarter of their area, if they have no area, or if they are smaller than
    ``min_box``.

    Args:
        sample: image ``(3, H, W)`` uint8 with boxes in its frame.
        settings: the settings.
        rng: source of all random choices.

    Returns:
        image ``(3, H', W')`` uint8, or float32 in [0, 1] with ``resize="bilinear_float"``; boxes
        in its frame; ``original_hw`` as it was.

    Examples:
        >>> target = Target(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0]))
        >>> sample = Sample(torch.zeros(3, 8, 10, dtype=torch.uint8), target, 1, (8, 10))
        >>> settings = TransformConfig(short=16, flip=1.0)
        >>> transform(sample, settings, np.random.default_rng(0)).target.boxes
        tensor([[14.,  4., 18.,  8.]])
    """
    height, width = sample.image.shape[-2:]
    return apply(sample, make_plan((height, width), settings, rng), settings)


def resized_hw(hw: tuple[int, int], short: int, settings: TransformConfig) -> tuple[int, int]:
    """Size with the shorter side at ``short``, or less if the longer one would exceed its limit.

    Sides are rounded to whole pixels, at least 1; down with ``bilinear_float``, as torchvision's
    detection models do.
    """
    scale = min(short / min(hw), settings.long / max(hw))
    if settings.resize == "bilinear_float":
        return max(1, math.floor(hw[0] * scale)), max(1, math.floor(hw[1] * scale))
    return max(1, math.floor(hw[0] * scale + 0.5)), max(1, math.floor(hw[1] * scale + 0.5))


def make_plan(hw: tuple[int, int], settings: TransformConfig, rng: np.random.Generator) -> Plan:
    """Choose the random parameters for an image of height and width ``hw``."""
    # The size comes first, so that it depends on no settings but its own.
    size = resized_hw(hw, settings.shorts[int(rng.integers(len(settings.shorts)))], settings)
    if not settings.is_random:
        return Plan(size)
    flip = bool(rng.random() < settings.flip)
    # Zoom is uniform on a log scale: halving is as likely as doubling.
    low, high = np.log(settings.zoom)
    zoom = float(np.exp(rng.uniform(low, high)))
    offset = float(rng.random()), float(rng.random())
    colors = []
    for name in ("brightness", "contrast", "saturation", "hue"):
        reach, middle = getattr(settings, name), 0.0 if name == "hue" else 1.0
        if reach:
            colors.append((name, float(rng.uniform(middle - reach, middle + reach))))
    order = rng.permutation(len(colors))
    seed = 0 if settings.extra is None else int(rng.integers(1 << 32))
    return Plan(size, flip, zoom, offset, tuple(colors[n] for n in order), seed)


def apply(sample: Sample, plan: Plan, settings: TransformConfig) -> Sample:
    """Apply the transform of a plan to a sample."""
    image, boxes = sample.image, sample.target.boxes
    if settings.resize == "bilinear_float":
        image = image.float() / 255
    image, boxes = _resize(image, boxes, plan, antialias=settings.resize == "antialias")
    if plan.flip:
        image = F.horizontal_flip(image)
        boxes = torch.stack(
            [plan.hw[1] - boxes[:, 2], boxes[:, 1], plan.hw[1] - boxes[:, 0], boxes[:, 3]], dim=1
        )
    for name, amount in plan.colors:
        image = _COLORS[name](image, amount)
    keep = _at_least(boxes, MIN_SIDE) & _at_least(sample.target.boxes, settings.min_box)
    target = Target(boxes[keep], sample.target.labels[keep])
    if plan.zoom != 1.0:
        target = _crop_boxes(target, plan.hw)
    sample = replace(sample, image=image, target=target)
    if settings.extra is None:
        return sample
    return _checked(settings.extra, sample, np.random.default_rng(plan.seed))


def _checked(step: TransformStep, before: Sample, rng: np.random.Generator) -> Sample:
    """The result of a `TransformStep`, checked.

    Raises:
        ConfigError: the step changed the size, dtype or ids, or returned invalid boxes.
    """
    after, name = step.apply(before, rng), type(step).__qualname__
    if not isinstance(after, Sample):
        raise ConfigError(f"{name}.apply returned a {type(after).__name__}; it must be a Sample")
    kept = (after.image.shape, after.image.dtype) == (before.image.shape, before.image.dtype)
    if not kept or (after.image_id, after.original_hw) != (before.image_id, before.original_hw):
        raise ConfigError(
            f"{name}.apply returned a {after.image.dtype} image of shape "
            f"{tuple(after.image.shape)} for a {before.image.dtype} one of "
            f"{tuple(before.image.shape)}, or another image_id or original_hw; it must keep these"
        )
    boxes, labels = after.target.boxes, after.target.labels
    if boxes.shape != (len(labels), 4) or not bool(boxes.isfinite().all()):
        raise ConfigError(
            f"{name}.apply returned boxes of shape {tuple(boxes.shape)} for {len(labels)} labels; "
            "boxes must be (N, 4) finite numbers"
        )
    keep = _at_least(boxes, MIN_SIDE)
    return replace(after, target=Target(boxes[keep].float(), labels[keep]))


_COLORS = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


def _resize(image: Tensor, boxes: Tensor, plan: Plan, antialias: bool) -> tuple[Tensor, Tensor]:
    """Image of size ``plan.hw`` and boxes in its frame, with the plan's zoom."""
    (height, width), (out_height, out_width) = image.shape[-2:], plan.hw
    # Region of the source that is seen, in its pixels, and where it comes to lie in the output.
    seen_h, seen_w = height, width
    size_h, size_w = out_height, out_width
    if plan.zoom > 1:
        seen_h = max(1, round(height / plan.zoom))
        seen_w = max(1, round(width / plan.zoom))
    elif plan.zoom < 1:
        size_h = max(1, round(out_height * plan.zoom))
        size_w = max(1, round(out_width * plan.zoom))
    from_y = int(plan.offset[0] * (height - seen_h + 1))
    from_x = int(plan.offset[1] * (width - seen_w + 1))
    to_y = int(plan.offset[0] * (out_height - size_h + 1))
    to_x = int(plan.offset[1] * (out_width - size_w + 1))

    image = image[:, from_y : from_y + seen_h, from_x : from_x + seen_w]
    if (seen_h, seen_w) != (size_h, size_w):
        image = F.resize(image, [size_h, size_w], antialias=antialias)
    if (size_h, size_w) != (out_height, out_width):
        fill = FILL / 255 if image.is_floating_point() else FILL
        canvas = image.new_full((3, out_height, out_width), fill)
        canvas[:, to_y : to_y + size_h, to_x : to_x + size_w] = image
        image = canvas
    # In float64, so that the boxes are exact to float32's last place.
    scale = boxes.new_tensor([size_w / seen_w, size_h / seen_h] * 2, dtype=torch.float64)
    shift = boxes.new_tensor([from_x, from_y] * 2, dtype=torch.float64)
    place = boxes.new_tensor([to_x, to_y] * 2, dtype=torch.float64)
    return image, ((boxes.double() - shift) * scale + place).float()


def _crop_boxes(target: Target, hw: tuple[int, int]) -> Target:
    """Boxes clipped to the canvas, without those that are mostly outside it."""
    limit = target.boxes.new_tensor([hw[1], hw[0]] * 2)
    clipped = target.boxes.clamp(min=0).minimum(limit)
    whole, left = (
        (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (target.boxes, clipped)
    )
    keep = (left >= MIN_VISIBLE * whole) & _at_least(clipped, MIN_SIDE)
    return Target(clipped[keep], target.labels[keep])


def _at_least(boxes: Tensor, side: float) -> Tensor:
    """Mask ``(N,)`` of boxes both of whose sides are at least ``side`` long."""
    return (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= side
