"""Pure functions on tensors: boxes, box coding, suppression."""

from __future__ import annotations

from hyperfocal.ops.boxes import box_area, box_iou, clip_boxes, has_area, paired_iou, rescale_boxes
from hyperfocal.ops.coders import (
    BoxCoder,
    DeltaCoder,
    DeltaWeights,
    DistanceCoder,
    DistanceForm,
    decode_deltas,
    decode_distances,
    encode_deltas,
    encode_distances,
)
from hyperfocal.ops.constants import constant, constant_like
from hyperfocal.ops.nms import nms, stable_topk

__all__ = [
    "BoxCoder",
    "DeltaCoder",
    "DeltaWeights",
    "DistanceCoder",
    "DistanceForm",
    "box_area",
    "box_iou",
    "clip_boxes",
    "constant",
    "constant_like",
    "decode_deltas",
    "decode_distances",
    "encode_deltas",
    "encode_distances",
    "has_area",
    "nms",
    "paired_iou",
    "rescale_boxes",
    "stable_topk",
]
