"""Weights of torchvision's ``fasterrcnn_resnet50_fpn`` and its ``_v2``.

torchvision's classifier has the background first, and a box output for it that is never used. Here
the background is last and has no box: label k is torchvision's k + 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from hyperfocal.assign import MaxIoUAssigner
from hyperfocal.losses import SmoothL1Loss
from hyperfocal.models import FPN, RPN, AnchorGenerator, Backbone, FasterRCNN, Inference, RoIHead
from hyperfocal.models.pixels import PixelNorm

CLASSIFIER = "roi_heads.box_predictor.cls_score.bias"
"""Tensor that only two-stage detectors have; its length is K + 1."""

BOX_BETA = 1 / 9
"""Beta of torchvision's smooth L1 losses."""

ALL_PAIRS = 1_000_000
"""torchvision has no limit on pairs of RoI and category before NMS."""


def faster_rcnn_config(
    source: Mapping[str, Tensor], backbone: Backbone.Config, pixels: PixelNorm.Config
) -> FasterRCNN.Config:
    """The settings of torchvision's detector; its version is inferred from the tensors.

    Args:
        source: torchvision's state dict.
        backbone: settings of the backbone.
        pixels: settings of the pixel normalisation.
    """
    is_v2 = _is_v2(source)
    box_loss = SmoothL1Loss.Config(beta=BOX_BETA)
    return FasterRCNN.Config(
        backbone=backbone,
        pixels=pixels,
        neck=FPN.Config(first_stride=4, extra_source="pool", norm="bn" if is_v2 else "none"),
        anchors=AnchorGenerator.Config((8.0,), 1, style="torchvision"),
        rpn=RPN.Config(
            depth=2 if is_v2 else 1,
            assigner=MaxIoUAssigner.Config(0.7, 0.3, low_quality="any"),
            box_loss=box_loss,
            train_proposals=2000,
        ),
        roi_head=RoIHead.Config(
            sampling_ratio=2,
            aligned=False,
            conv_layers=4 if is_v2 else 0,
            conv_norm="bn" if is_v2 else "none",
            fc_layers=1 if is_v2 else 2,
            box_loss=box_loss,
        ),
        inference=Inference.Config(pre_nms=ALL_PAIRS),
    )


def faster_rcnn_tensors(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's tensors with this package's names and order of categories."""
    found, has_norms = {}, _is_v2(source)
    for key, value in source.items():
        name = _rename(key, has_norms)
        if name.startswith("roi_head.cls_logits."):
            value = torch.cat([value[1:], value[:1]])
        elif name.startswith("roi_head.box_deltas."):
            value = value[4:]
        found[name] = value
    return found


_RENAMES = (
    (r"^backbone\.body\.", "backbone.net."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(weight|bias)$", r"neck.lateral.\1.\2"),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(weight|bias)$", r"neck.output.\1.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.tower.0.\1"),
    (r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "roi_head.layers.0."),
    (r"^roi_heads\.box_head\.fc7\.", "roi_head.layers.2."),
    (r"^roi_heads\.box_head\.5\.", "roi_head.layers.0."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "roi_head.cls_logits."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi_head.box_deltas."),
)
_RPN_CONV = re.compile(r"^rpn\.head\.conv\.(\d)\.0\.(weight|bias)$")
_BOX_CONV = re.compile(r"^roi_heads\.box_head\.(\d)\.([01])\.(.+)$")
_FPN_NORM = re.compile(r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.([01])\.(.+)$")


def _is_v2(source: Mapping[str, Tensor]) -> bool:
    return "roi_heads.box_head.fc6.weight" not in source


def _rename(key: str, has_norms: bool) -> str:
    """This package's name of a tensor; unknown names are unchanged."""
    if has_norms and (found := _FPN_NORM.match(key)):
        part = "lateral" if found[1] == "inner" else "output"
        return f"neck.{part}.{found[2]}.{found[3]}.{found[4]}"
    if found := _RPN_CONV.match(key):
        return f"rpn.tower.{2 * int(found[1])}.{found[2]}"
    if found := _BOX_CONV.match(key):  # convolution, norm and ReLU are a flat list here
        return f"roi_head.convs.{3 * int(found[1]) + int(found[2])}.{found[3]}"
    for pattern, name in _RENAMES:
        renamed, hits = re.subn(pattern, name, key)
        if hits:
            return renamed
    return key
