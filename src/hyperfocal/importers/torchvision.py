"""Weights of torchvision's RetinaNets, FCOS and Faster R-CNNs with ResNet-50-FPN.

The imported detector gives torchvision's boxes, scores and labels, and its training losses. For
Faster R-CNN see also `torchvision_faster_rcnn`.

**Labels of RetinaNet and FCOS.** torchvision's head has an output for every index, including 0 for
the background (which is never positive in training). All outputs are kept, so label k is index k;
the category with label k has id k. For the published 91-output COCO heads these are COCO's category
ids (1..90, with its gaps), so that results need no conversion.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from hyperfocal.assign import FCOSAssigner, MaxIoUAssigner
from hyperfocal.data import TransformConfig
from hyperfocal.importers.torchvision_faster_rcnn import (
    CLASSIFIER,
    faster_rcnn_config,
    faster_rcnn_tensors,
)
from hyperfocal.losses import GIoULoss, SmoothL1Loss
from hyperfocal.models import (
    FCOS,
    FPN,
    YOLOX,
    AnchorGenerator,
    Backbone,
    DenseHead,
    Detector,
    FasterRCNN,
    Inference,
    QualityBranch,
    RetinaNet,
)
from hyperfocal.models.backbone import read_state_dict
from hyperfocal.models.pixels import PixelNorm
from hyperfocal.types import Category, ConfigError

ANCHORS = 9
COCO_OUTPUTS = 91


@dataclass(frozen=True)
class Imported:
    """An imported detector.

    Attributes:
        config: builds the detector, with the losses and settings of its source for training.
        state_dict: complete state dict of the detector that ``config.offline()`` builds.
        categories: label k is ``categories[k]``.
        transform: the image transform of the source.
    """

    config: RetinaNet.Config | FCOS.Config | FasterRCNN.Config | YOLOX.Config
    state_dict: dict[str, Tensor]
    categories: tuple[Category, ...]
    transform: TransformConfig


def import_torchvision(weights: str | Path) -> Imported:
    """Read a state dict of torchvision's detectors, with any number of categories.

    Detector, version, number of categories and kind of batch norm are inferred from the tensors. A
    detector with the old key names of its head (``...conv.0.weight``, ``rpn.head.conv.weight``) and
    frozen batch norms comes from a torchvision version whose frozen norms had no epsilon, like the
    published COCO weights: it gets epsilon 0.

    Raises:
        ConfigError: the file can't be read or isn't such a state dict.
    """
    source = read_state_dict(weights)
    if CLASSIFIER in source:
        return _import_faster_rcnn(weights, source)
    logits = source.get("head.classification_head.cls_logits.bias")
    deltas = source.get("head.regression_head.bbox_reg.bias")
    if logits is None or deltas is None:
        raise ConfigError(
            f"{weights}: not a RetinaNet, FCOS or Faster R-CNN of torchvision (there is no head)"
        )
    is_fcos = "head.regression_head.bbox_ctrness.bias" in source
    anchors = 1 if is_fcos else ANCHORS
    if len(deltas) != 4 * anchors or len(logits) % anchors:
        raise ConfigError(
            f"{weights}: the head has {len(deltas) // 4} anchors per location, but torchvision's "
            f"{'FCOS has' if is_fcos else 'RetinaNets have'} {anchors}; other anchor generators "
            "can't be inferred from the weights"
        )
    num_classes = len(logits) // anchors
    is_v2 = "head.classification_head.conv.0.1.weight" in source  # group norm
    config = _fcos(source) if is_fcos else _retinanet(source, is_v2)
    renamed = {_rename(key, is_v2): value for key, value in source.items()}
    return _imported(weights, config, renamed, _categories(num_classes))


def _import_faster_rcnn(weights: str | Path, source: Mapping[str, Tensor]) -> Imported:
    frozen_eps = 0.0 if "rpn.head.conv.weight" in source else None
    config = faster_rcnn_config(source, _backbone(source, frozen_eps), _PIXELS)
    categories = _categories(len(source[CLASSIFIER]))[1:]
    return _imported(weights, config, faster_rcnn_tensors(source), categories)


def _imported(
    weights: str | Path,
    config: RetinaNet.Config | FCOS.Config | FasterRCNN.Config,
    tensors: Mapping[str, Tensor],
    categories: tuple[Category, ...],
) -> Imported:
    """The detector with these tensors, checked."""
    model: Detector = config.offline().build(len(categories))
    own = model.state_dict()
    _check_same(weights, tensors, {k: v for k, v in own.items() if not k.startswith("pixels.")})
    model.load_state_dict(dict(tensors), strict=False)
    return Imported(
        config=config,
        state_dict=model.state_dict(),
        categories=categories,
        transform=TransformConfig(short=800, long=1333, resize="bilinear_float"),
    )


def _backbone(source: Mapping[str, Tensor], frozen_eps: float | None) -> Backbone.Config:
    trains_norms = "backbone.body.bn1.num_batches_tracked" in source
    return Backbone.Config(
        name="resnet50",
        pretrained=False,
        norm="train" if trains_norms else "frozen",
        norm_eps=None if trains_norms else frozen_eps,
    )


def _neck(source: Mapping[str, Tensor]) -> FPN.Config:
    p6 = source.get("backbone.fpn.extra_blocks.p6.weight")
    from_p5 = p6 is not None and p6.shape[0] == p6.shape[1]
    return FPN.Config(extra_source="p5" if from_p5 else "c5")


_PIXELS = PixelNorm.Config(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


def _retinanet(source: Mapping[str, Tensor], is_v2: bool) -> RetinaNet.Config:
    old_names = "head.classification_head.conv.0.weight" in source
    return RetinaNet.Config(
        backbone=_backbone(source, 0.0 if old_names else None),
        pixels=_PIXELS,
        neck=_neck(source),
        anchors=AnchorGenerator.Config(style="torchvision"),
        head=DenseHead.Config(norm="gn" if is_v2 else "none"),
        assigner=MaxIoUAssigner.Config(low_quality="any"),
        box_loss=GIoULoss.Config() if is_v2 else SmoothL1Loss.Config(beta=0.0),
        divisor="per_image",
        inference=Inference.Config(max_detections=300),
    )


def _fcos(source: Mapping[str, Tensor]) -> FCOS.Config:
    return FCOS.Config(
        backbone=_backbone(source, None),
        pixels=_PIXELS,
        neck=_neck(source),
        anchors=AnchorGenerator.Config((1.0,), 1, (1.0,), style="torchvision"),
        head=DenseHead.Config(norm="gn", tower_bias=True),
        assigner=FCOSAssigner.Config(range_limits="open"),
        quality=QualityBranch(weigh_boxes=False, threshold_on="score"),
        inference=Inference.Config(score_threshold=0.2, nms_iou=0.6),
    )


_RENAMES = (
    (r"^backbone\.body\.", "backbone.net."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(weight|bias)$", r"neck.lateral.\1.\2"),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(weight|bias)$", r"neck.output.\1.\2"),
    (r"^backbone\.fpn\.extra_blocks\.p6\.", "neck.extra.0."),
    (r"^backbone\.fpn\.extra_blocks\.p7\.", "neck.extra.1."),
    (r"^head\.classification_head\.cls_logits\.", "head.cls_logits."),
    (r"^head\.regression_head\.bbox_reg\.", "head.box_deltas."),
    (r"^head\.regression_head\.bbox_ctrness\.", "head.quality_logits."),
)
_TOWER = re.compile(
    r"^head\.(classification|regression)_head\.conv\.(\d+)(?:\.(\d))?\.(weight|bias)$"
)


def _rename(key: str, is_v2: bool) -> str:
    """This package's name of a tensor; unknown names are unchanged."""
    if tower := _TOWER.match(key):
        kind, block, layer, tensor = tower.groups()
        # Blocks of convolution, (norm,) ReLU are a flat list here, as in torchvision's old files.
        index = int(block) if layer is None else (3 if is_v2 else 2) * int(block) + int(layer)
        return f"head.{'cls' if kind == 'classification' else 'box'}_tower.{index}.{tensor}"
    for pattern, name in _RENAMES:
        renamed, hits = re.subn(pattern, name, key)
        if hits:
            return renamed
    return key


def _check_same(path: str | Path, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    unknown = [key for key in given if key not in own]
    misshapen = [k for k in own if k in given and given[k].shape != own[k].shape]
    for what, keys in (
        ("lacks", missing),
        ("has unknown", unknown),
        ("has the wrong shape in", misshapen),
    ):
        if keys:
            raise ConfigError(
                f"{path}: not a torchvision detector with ResNet-50: it {what} {len(keys)} "
                f"tensor(s), such as {keys[0]}"
            )


def _categories(num_classes: int) -> tuple[Category, ...]:
    names = ["__background__"] + [f"category {k}" for k in range(1, num_classes)]
    if num_classes == COCO_OUTPUTS:
        from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

        names = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple(Category(id=k, name=name) for k, name in enumerate(names))
