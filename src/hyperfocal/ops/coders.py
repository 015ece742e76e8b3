"""How a network's box outputs encode boxes.

Deltas (R-CNN): for a box g and an anchor a, with centres x, y and sizes w, h::

    dx = (gx - ax) / aw · wx      dy = (gy - ay) / ah · wy
    dw = log(gw / aw) · ww        dh = log(gh / ah) · wh
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DeltaWeights = tuple[float, float, float, float]
"""Factors (wx, wy, ww, wh) on the encoded deltas."""

MAX_LOG_SCALE = math.log(1000 / 16)
"""Decoding clamps dw and dh here, so that one wild logit can't overflow the exponential."""


def encode_deltas(
    boxes: Tensor, anchors: Tensor, weights: DeltaWeights = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Deltas that take ``anchors`` to ``boxes``.

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
    return deltas * deltas.new_tensor(weights)


def decode_deltas(
    deltas: Tensor, anchors: Tensor, weights: DeltaWeights = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Boxes that ``deltas`` make of ``anchors``; the inverse of `encode_deltas`.

    Computed in float32 at least, whatever the network's precision. dw and dh are clamped to
    ``log(1000 / 16)``.

    Args:
        deltas: ``(..., 4)``.
        anchors: ``(..., 4)`` xyxy.
        weights: factors that were applied to (dx, dy, dw, dh).

    Returns:
        ``(..., 4)`` xyxy.
    """
    deltas = deltas.to(torch.promote_types(deltas.dtype, torch.float32))
    deltas = deltas / deltas.new_tensor(weights)
    anchor_wh = anchors[..., 2:] - anchors[..., :2]
    center = deltas[..., :2] * anchor_wh + (anchors[..., :2] + 0.5 * anchor_wh)
    half = deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * anchor_wh * 0.5
    return torch.cat((center - half, center + half), dim=-1)
