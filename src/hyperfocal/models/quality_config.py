"""Settings that FCOS, ATSS and PAA share, and the parts that they build."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Self

from torch import nn

from hyperfocal import config
from hyperfocal.losses import (
    BoxLossConfig,
    ClassificationLossConfig,
    GIoULoss,
    SigmoidFocalLoss,
)
from hyperfocal.models.backbone import Backbone
from hyperfocal.models.detector import SHARED_FIELDS
from hyperfocal.models.fpn import FPN
from hyperfocal.models.head import DenseHead
from hyperfocal.models.inference import Inference
from hyperfocal.models.mining import MiningConfig
from hyperfocal.models.pixels import PixelNorm
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.quality import QualityBranch
from hyperfocal.ops import BoxCoder
from hyperfocal.types import CategoryCounts


@dataclass(frozen=True)
class Parts:
    """What a `QualityDetector` is composed from."""

    num_classes: int
    pixels: PixelNorm
    backbone: nn.Module
    neck: FPN
    anchors: AnchorGenerator
    head: DenseHead
    assigner: nn.Module
    coder: BoxCoder
    loss: nn.Module
    mining: MiningConfig | None
    box_loss: nn.Module
    box_weight: float
    quality: QualityBranch
    inference: Inference
    stream_from: int


@dataclass(frozen=True)
class QualityDetectorConfig(config.Config):
    """Settings that FCOS, ATSS and PAA share."""

    kept_when_swapped: ClassVar[tuple[str, ...]] = SHARED_FIELDS

    backbone: Backbone.Config = field(default_factory=Backbone.Config)
    """Network that makes the features."""
    pixels: PixelNorm.Config = field(default_factory=PixelNorm.Config)
    """How pixels are normalised."""
    neck: FPN.Config = field(default_factory=lambda: FPN.Config(extra_source="p5"))
    """Feature pyramid."""
    anchors: AnchorGenerator.Config = field(
        default_factory=lambda: AnchorGenerator.Config((8.0,), 1, (1.0,), center_offset=0.5)
    )
    """Boxes or locations that the head predicts from."""
    head: DenseHead.Config = field(
        default_factory=lambda: DenseHead.Config(norm="gn", tower_bias=True, level_scale=True)
    )
    """Towers and predictions."""
    loss: ClassificationLossConfig = field(default_factory=SigmoidFocalLoss.Config)
    """Classification loss."""
    mining: MiningConfig | None = None
    """Train on hard priors only; none: on all."""
    box_loss: BoxLossConfig = field(default_factory=GIoULoss.Config)
    """Box loss."""
    box_weight: float = 1.0
    """Factor on the box loss."""
    quality: QualityBranch = field(default_factory=QualityBranch)
    """The quality branch, and the score that it makes."""
    inference: Inference.Config = field(default_factory=lambda: Inference.Config(nms_iou=0.6))
    """Selection and suppression of detections."""
    stream_from: int = 2048
    """Outputs of the last classification convolution (anchors x categories) from which the loss is
    computed a few categories at a time, so that its logits never exist all at once. Detections are
    always selected so."""

    def __post_init__(self) -> None:
        self._require(self.box_weight >= 0, "box_weight", "at least 0")
        self._require(self.stream_from >= 0, "stream_from", "at least 0")

    def offline(self) -> Self:
        """The same detector without initial weights: to load trained ones into."""
        return dataclasses.replace(self, backbone=self.backbone.offline())

    def parts(
        self,
        num_classes: int,
        counts: CategoryCounts | None,
        assigner: nn.Module,
        coder: BoxCoder,
    ) -> Parts:
        """The built parts, with the assigner and the box coding of a detector."""
        backbone = self.backbone.build()
        neck = self.neck.build(backbone.channels)
        return Parts(
            num_classes=num_classes,
            pixels=self.pixels.build(backbone.mean, backbone.std),
            backbone=backbone,
            neck=neck,
            anchors=self.anchors.build(neck.strides),
            head=self.head.build(
                neck.channels,
                self.anchors.per_location,
                num_classes,
                num_levels=len(neck.strides),
                quality=self.quality.tower,
            ),
            assigner=assigner,
            coder=coder,
            loss=self.loss.build(num_classes, counts),
            mining=self.mining,
            box_loss=self.box_loss.build(),
            box_weight=self.box_weight,
            quality=self.quality,
            inference=self.inference.build(),
            stream_from=self.stream_from,
        )
