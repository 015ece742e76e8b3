"""YOLOX's published weights, of all sizes from nano to x.

The imported detector gives the boxes, scores and labels of the authors' network. Two conventions
differ. Their box centres are offsets from the corner of a cell, here from its centre: half a stride
is subtracted from the bias. They pad images to a square with grey; here images are padded to
multiples of 32 with black, so boxes near the padding may differ slightly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hyperfocal.data import TransformConfig
from hyperfocal.importers.torchvision import Imported
from hyperfocal.models import PAFPN, YOLOX, CSPDarknet, DecoupledHead, PixelNorm
from hyperfocal.models.backbone import read_state_dict
from hyperfocal.models.csp_darknet import SCALES, Size
from hyperfocal.types import Category, ConfigError

COCO_CATEGORIES = 80

_PREFIXES = (
    (r"^backbone\.backbone\.stem\.conv\.", "backbone.stem."),
    (r"^backbone\.backbone\.dark5\.1\.conv1\.", "backbone.stages.3.1.reduce."),
    (r"^backbone\.backbone\.dark5\.1\.conv2\.", "backbone.stages.3.1.join."),
    (r"^backbone\.lateral_conv0\.", "neck.lateral.0."),
    (r"^backbone\.reduce_conv1\.", "neck.lateral.1."),
    (r"^backbone\.C3_p4\.", "neck.top_down.0."),
    (r"^backbone\.C3_p3\.", "neck.top_down.1."),
    (r"^backbone\.bu_conv2\.", "neck.down.0."),
    (r"^backbone\.bu_conv1\.", "neck.down.1."),
    (r"^backbone\.C3_n3\.", "neck.bottom_up.0."),
    (r"^backbone\.C3_n4\.", "neck.bottom_up.1."),
    (r"^head\.stems\.", "neck.output."),
    (r"^head\.cls_convs\.", "head.cls_tower."),
    (r"^head\.reg_convs\.", "head.box_tower."),
    (r"^head\.cls_preds\.", "head.cls_logits."),
    (r"^head\.reg_preds\.", "head.box_deltas."),
    (r"^head\.obj_preds\.", "head.quality_logits."),
)
_LAYERS = (
    (r"\.m\.(\d+)\.conv1\.", r".blocks.\1.0."),
    (r"\.m\.(\d+)\.conv2\.", r".blocks.\1.1."),
    (r"\.conv1\.", ".main."),
    (r"\.conv2\.", ".bypass."),
    (r"\.conv3\.", ".join."),
    (r"\.dconv\.", ".0."),
    (r"\.pconv\.", ".1."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
)


def import_yolox(weights: str | Path) -> Imported:
    """Read a checkpoint of the authors' YOLOX, with any number of categories.

    The size is inferred from the tensors. With 80 categories they are COCO's, with its ids.

    Raises:
        ConfigError: the file can't be read, or isn't such a checkpoint.
    """
    source = read_state_dict(weights)
    logits = source.get("head.cls_preds.0.bias")
    if logits is None:
        raise ConfigError(f"{weights}: not a YOLOX of its authors (there is no head)")
    categories = _categories(len(logits))
    config = _config(_size(weights, source))
    model = config.build(len(categories))
    tensors = {_rename(key): value for key, value in source.items()}
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("pixels.")}
    for name, value in own.items():
        if name not in tensors or tensors[name].shape != value.shape:
            found = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise ConfigError(
                f"{weights}: not a YOLOX of its authors: {name} must have shape "
                f"{tuple(value.shape)}, but the file has {found}"
            )
    for level in range(3):
        bias = tensors[f"head.box_deltas.{level}.bias"].clone()
        bias[:2] -= 0.5  # from the cell's corner to its centre
        tensors[f"head.box_deltas.{level}.bias"] = bias
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        raise ConfigError(
            f"{weights}: not a YOLOX of its authors: {len(unknown)} unknown tensor(s), such as "
            f"{unknown[0]}"
        )
    model.load_state_dict(tensors, strict=False)
    return Imported(
        config=config,
        state_dict=model.state_dict(),
        categories=categories,
        transform=TransformConfig(short=640, long=640, resize="bilinear_float"),
    )


def _size(weights: str | Path, source: Mapping[str, Tensor]) -> Size:
    """The size whose width, depth and kind of convolution the tensors have."""
    stem = source.get("backbone.backbone.stem.conv.conv.weight")
    width = 0 if stem is None else len(stem)
    block = re.compile(r"^backbone\.backbone\.dark2\.1\.m\.\d+\.conv1\.conv\.weight$")
    blocks = sum(block.match(key) is not None for key in source)
    depthwise = any(".dconv." in key for key in source)
    for size, scale in SCALES.items():
        if (int(64 * scale.width), scale.blocks, scale.depthwise) == (width, blocks, depthwise):
            return size
    raise ConfigError(
        f"{weights}: {width} channels of the stem and {blocks} bottlenecks in the first stage "
        f"aren't those of a YOLOX of size {', '.join(SCALES)}"
    )


def _config(size: Size) -> YOLOX.Config:
    scale = SCALES[size]
    return YOLOX.Config(
        backbone=CSPDarknet.Config(size),
        pixels=PixelNorm.Config(bgr=True),
        neck=PAFPN.Config(depth=scale.blocks, depthwise=scale.depthwise),
        head=DecoupledHead.Config(depthwise=scale.depthwise),
    )


def _rename(key: str) -> str:
    """This package's name of a tensor; unknown names are unchanged."""
    name = re.sub(
        r"^backbone\.backbone\.dark(\d)\.",
        lambda found: f"backbone.stages.{int(found[1]) - 2}.",
        _first(key),
    )
    for pattern, new in _LAYERS:
        name = re.sub(pattern, new, name)
    return name


def _first(key: str) -> str:
    for pattern, new in _PREFIXES:
        renamed, hits = re.subn(pattern, new, key)
        if hits:
            return renamed
    return key


def _categories(number: int) -> tuple[Category, ...]:
    if number != COCO_CATEGORIES:
        return tuple(Category(id=k + 1, name=f"category {k + 1}") for k in range(number))
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    names = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    there = [(k, name) for k, name in enumerate(names) if k and name != "N/A"]
    return tuple(Category(id=k, name=name) for k, name in there)
