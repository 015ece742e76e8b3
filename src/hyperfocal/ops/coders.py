"""Box coding: the conversion between boxes and a network's box outputs.

Deltas (R-CNN): for a box g and an anchor a, with centres x, y and sizes w, h:

    dx = (gx - ax) / aw · wx      dy = (gy - ay) / ah · wy
    dw = log(gw / aw) · ww        dh = log(gh / ah) · wh

Distances (FCOS) from a location, the centre of a square of one stride, to the sides of a box:

    linear   (l, t, r, b) / stride, with negative values clamped to 0
    exp      log(l, t, r, b)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hyperfocal.ops.constants import constant_like

DeltaWeights = tuple[float, float, float, float]
"""Factors (wx, wy, ww, wh) on the encoded deltas."""

MAX_LOG_SCALE = math.log(1000 / 16)
"""Maximum of dw and dh in decoding, so that the exponential can't overflow."""


def encode_deltas(
    boxes: Tensor, anchors: Tensor, weights: DeltaWeights = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Deltas that transform ``anchors`` into ``boxes``.

    Args:
        boxes: ``(..., 4)`` xyxy of positive width and height.
        anchors: ``(..., 4)`` xyxy of positive width and height.
        weights: factors on (dx, dy, dw, dh).

    Returns:
        ``(..., 4)``.
    """
    anchor_wh = anchors[..., 2:] - anchors[..., :2]
    box_wh = boxes[..., 2:] - boxes[..., :2]
    anchor_center = anchors[..., :2] + 0.5 * anchor_wh
    center = boxes[..., :2] + 0.5 * box_wh
    deltas = torch.cat(((center - anchor_center) / anchor_wh, (box_wh / anchor_wh).log()), dim=-1)
    return deltas * constant_like(weights, deltas)


def decode_deltas(
    deltas: Tensor, anchors: Tensor, weights: DeltaWeights = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Apply ``deltas`` to ``anchors``; the inverse of `encode_deltas`.

    Computed in float32 or better for inputs of any precision. dw and dh are clamped to
    ``log(1000 / 16)``.

    Args:
        deltas: ``(..., 4)``.
        anchors: ``(..., 4)`` xyxy.
        weights: factors on (dx, dy, dw, dh) used for encoding.

    Returns:
        ``(..., 4)`` xyxy.
    """
    deltas = deltas.to(torch.promote_types(deltas.dtype, torch.float32))
    deltas = deltas / constant_like(weights, deltas)
    anchor_wh = anchors[..., 2:] - anchors[..., :2]
    center = deltas[..., :2] * anchor_wh + (anchors[..., :2] + 0.5 * anchor_wh)
    half = deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * anchor_wh * 0.5
    return torch.cat((center - half, center + half), dim=-1)


DistanceForm = Literal["linear", "exp"]
"""Encoding of distances; see above."""

MAX_LOG_DISTANCE = math.log(1e5)
"""Maximum exponent in decoding distances."""

LEAST_DISTANCE = 1e-3
"""Minimum distance in pixels in the exp form; smaller ones are clamped."""


def encode_distances(boxes: Tensor, squares: Tensor, form: DistanceForm = "linear") -> Tensor:
    """Encoded distances ``(..., 4)`` from the centres of ``squares`` to the sides of ``boxes``.

    Args:
        boxes: ``(..., 4)`` xyxy around the centres.
        squares: ``(..., 4)`` xyxy, one stride wide.
        form: see `DistanceForm`.
    """
    center = (squares[..., :2] + squares[..., 2:]) / 2
    distances = torch.cat((center - boxes[..., :2], boxes[..., 2:] - center), dim=-1)
    if form == "exp":
        return distances.clamp(min=LEAST_DISTANCE).log()
    return distances / (squares[..., 2:3] - squares[..., :1])


def decode_distances(values: Tensor, squares: Tensor, form: DistanceForm = "linear") -> Tensor:
    """Boxes from outputs; the inverse of `encode_distances`, in float32 or better.

    Args:
        values: ``(..., 4)``.
        squares: ``(..., 4)`` xyxy, one stride wide.
        form: see `DistanceForm`; the exponent is clamped so that it can't overflow.

    Returns:
        ``(..., 4)`` xyxy.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if form == "exp":
        distances = values.clamp(max=MAX_LOG_DISTANCE).exp()
    else:
        distances = values.relu() * (squares[..., 2:3] - squares[..., :1])
    center = (squares[..., :2] + squares[..., 2:]) / 2
    return torch.cat((center - distances[..., :2], center + distances[..., 2:]), dim=-1)


@dataclass(frozen=True)
class DeltaCoder:
    """`encode_deltas` and `decode_deltas` with their weights."""

    weights: DeltaWeights = (1.0, 1.0, 1.0, 1.0)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Outputs ``(..., 4)`` for boxes and anchors ``(..., 4)``."""
        return encode_deltas(boxes, anchors, self.weights)

    def decode(self, values: Tensor, anchors: Tensor) -> Tensor:
        """Boxes ``(..., 4)`` from outputs and anchors ``(..., 4)``."""
        return decode_deltas(values, anchors, self.weights)


@dataclass(frozen=True)
class DistanceCoder:
    """`encode_distances` and `decode_distances` with their form."""

    form: DistanceForm = "linear"

    def encode(self, boxes: Tensor, squares: Tensor) -> Tensor:
        """Outputs ``(..., 4)`` for boxes and squares ``(..., 4)``."""
        return encode_distances(boxes, squares, self.form)

    def decode(self, values: Tensor, squares: Tensor) -> Tensor:
        """Boxes ``(..., 4)`` from outputs and squares ``(..., 4)``."""
        return decode_distances(values, squares, self.form)


BoxCoder = DeltaCoder | DistanceCoder
"""Box coding of a detector."""
