"""Pure functions on tensors: boxes, box coding, suppression."""

from __future__ import annotations

from hyperfocal.ops.boxes import box_area, box_iou, clip_boxes, paired_iou, rescale_boxes
from hyperfocal.ops.coders import DeltaWeights, decode_deltas, encode_deltas
from hyperfocal.ops.nms import nms, stable_topk

__all__ = [
    "DeltaWeights",
    "box_area",
    "box_iou",
    "clip_boxes",
    "decode_deltas",
    "encode_deltas",
    "nms",
    "paired_iou",
    "rescale_boxes",
    "stable_topk",
]
