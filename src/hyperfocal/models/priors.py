"""Anchors: boxes of fixed shapes on a grid for each level of the pyramid."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hyperfocal import config
from hyperfocal.types import Priors

AnchorStyle = Literal["exact", "torchvision"]


def grid_sizes(image_hw: tuple[int, int], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each level for a padded image: ``ceil(size / stride)``."""
    return tuple((-(-image_hw[0] // s), -(-image_hw[1] // s)) for s in strides)


def base_anchors(sizes: Tensor, ratios: Tensor) -> Tensor:
    """Anchors around the origin, ``(len(ratios) · len(sizes), 4)``; the size varies fastest.

    Args:
        sizes: ``(S,)`` square roots of the areas, pixels.
        ratios: ``(R,)`` height / width.
    """
    root = ratios.sqrt()
    w = (sizes / root[:, None]).flatten()
    h = (sizes * root[:, None]).flatten()
    return torch.stack((-w, -h, w, h), dim=1) / 2


class AnchorGenerator:
    """Anchors of a padded image, with a cache for the last few image sizes.

    A location has anchors with the sizes ``stride · base · 2^(i / n)`` for all base scales and all
    i in 0..n-1, in all aspect ratios. The defaults are the focal-loss paper's: 9 anchors, 32 to 813
    pixels from P3 to P7.

    Attributes:
        bases: anchors of each level around the origin, ``(A, 4)``.

    Args:
        strides: stride of each level, pixels.
        base_scales, scales_per_octave, ratios, center_offset, style: see `Config`.
    """

    CACHED = 8

    @dataclass(frozen=True)
    class Config(config.Config):
        """Settings of `AnchorGenerator`."""

        base_scales: tuple[float, ...] = (4.0,)
        """Size of the smallest anchor of an octave, in strides of its level."""
        scales_per_octave: int = 3
        """Number of sizes per octave (n), from a base scale to below its double."""
        ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
        """Aspect ratios, height / width."""
        center_offset: float = 0.0
        """Position of an anchor's centre in its cell, in strides (Detectron: 0.5)."""
        style: AnchorStyle = "exact"
        """exact; or torchvision: sizes truncated and corners rounded to whole pixels, and steps
        between locations of padded size // rows, which may differ from the stride."""

        kind: ClassVar[str] = "anchors"

        def __post_init__(self) -> None:
            for name in ("base_scales", "ratios"):
                values = getattr(self, name)
                self._require(
                    len(values) > 0 and all(v > 0 for v in values), name, "positive numbers"
                )
            self._require(self.scales_per_octave >= 1, "scales_per_octave", "at least 1")
            self._require(0 <= self.center_offset <= 1, "center_offset", "in [0, 1]")

        @property
        def per_location(self) -> int:
            """Number of anchors per location."""
            return len(self.base_scales) * self.scales_per_octave * len(self.ratios)

        def build(self, strides: tuple[int, ...]) -> AnchorGenerator:
            """The generator for levels with these strides."""
            return AnchorGenerator(strides, **self.arguments())

    def __init__(
        self,
        strides: tuple[int, ...],
        base_scales: tuple[float, ...] = (4.0,),
        scales_per_octave: int = 3,
        ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        center_offset: float = 0.0,
        style: AnchorStyle = "exact",
    ) -> None:
        self.strides = strides
        self.center_offset = center_offset
        self.style = style
        octave = [2 ** (i / scales_per_octave) for i in range(scales_per_octave)]
        self.bases = tuple(
            self._base([s * base * scale for base in base_scales for scale in octave], ratios)
            for s in strides
        )
        self._cache: OrderedDict[tuple[tuple[int, int], torch.device], Priors] = OrderedDict()

    def _base(self, sizes: list[float], ratios: tuple[float, ...]) -> Tensor:
        whole = self.style == "torchvision"
        sizes = [float(int(size)) for size in sizes] if whole else sizes
        anchors = base_anchors(torch.tensor(sizes), torch.tensor(ratios))
        return anchors.round() if whole else anchors

    def __call__(self, image_hw: tuple[int, int], device: torch.device) -> Priors:
        """Anchors of a padded image of (height, width) pixels."""
        key = (image_hw, device)
        if key not in self._cache:
            self._cache[key] = self._generate(image_hw, device)
            if len(self._cache) > self.CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]

    def _generate(self, image_hw: tuple[int, int], device: torch.device) -> Priors:
        boxes, strides = [], []
        for stride, base, (rows, columns) in zip(
            self.strides, self.bases, grid_sizes(image_hw, self.strides), strict=True
        ):
            step_y, step_x = stride, stride
            if self.style == "torchvision":
                step_y, step_x = image_hw[0] // rows, image_hw[1] // columns
            y = (torch.arange(rows) + self.center_offset) * step_y
            x = (torch.arange(columns) + self.center_offset) * step_x
            centers = torch.cartesian_prod(y, x).flip(1).repeat(1, 2)
            boxes.append((centers[:, None] + base).flatten(0, 1))
            strides.append(torch.full((len(boxes[-1]),), float(stride)))
        sizes = tuple(len(b) for b in boxes)
        return Priors(torch.cat(boxes).to(device), torch.cat(strides).to(device), sizes)
