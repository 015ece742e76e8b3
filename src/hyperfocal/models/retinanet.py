"""RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfocal import config
from hyperfocal.assign import MaxIoUAssigner
from hyperfocal.losses import (
    BoxLossConfig,
    ClassificationLossConfig,
    QualityLoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
)
from hyperfocal.losses.streamed_topk import streamed_topk
from hyperfocal.models.backbone import Backbone
from hyperfocal.models.classification import classification_loss
from hyperfocal.models.detector import SHARED_FIELDS, WHOLE, Detector, predicting
from hyperfocal.models.diagnosis import Diagnosis, diagnose
from hyperfocal.models.fpn import FPN
from hyperfocal.models.head import DenseHead
from hyperfocal.models.inference import Inference
from hyperfocal.models.matched import Matched, box_regression_loss, match
from hyperfocal.models.mining import MiningConfig, counted, mine
from hyperfocal.models.normalizer import LossNormalizer, NormalizerKind
from hyperfocal.models.pixels import PixelNorm, padded_hw
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.samples import Samples
from hyperfocal.ops import BoxCoder, DeltaCoder, DeltaWeights, paired_iou
from hyperfocal.types import (
    Assignment,
    Batch,
    CategoryCounts,
    Detections,
    LossTerms,
    Priors,
)


class RetinaNet(Detector):
    """One-stage detector: a feature pyramid, a dense head, focal loss over all anchors.

    The loss is ``Σ_b (classification_b + w · box_b) / z_b``: the classification loss over all
    anchors that aren't ignored, the box loss over the positive ones, divided by the normaliser.

    Build it from its config::

        model = RetinaNet.Config(backbone=Backbone.Config("resnet18")).build(num_classes=20)
    """

    @dataclass(frozen=True)
    class Config(config.Config):
        """Settings of `RetinaNet`; the defaults are the paper's, where it says."""

        kind: ClassVar[str] = "retinanet"
        kept_when_swapped: ClassVar[tuple[str, ...]] = SHARED_FIELDS

        backbone: Backbone.Config = field(default_factory=Backbone.Config)
        """Network that makes the features."""
        pixels: PixelNorm.Config = field(default_factory=PixelNorm.Config)
        """How pixels are normalised."""
        neck: FPN.Config = field(default_factory=FPN.Config)
        """Feature pyramid."""
        anchors: AnchorGenerator.Config = field(default_factory=AnchorGenerator.Config)
        """Boxes that the head predicts from."""
        head: DenseHead.Config = field(default_factory=DenseHead.Config)
        """Towers and predictions."""
        assigner: MaxIoUAssigner.Config = field(default_factory=MaxIoUAssigner.Config)
        """Which anchors answer for which object."""
        loss: ClassificationLossConfig = field(default_factory=SigmoidFocalLoss.Config)
        """Classification loss."""
        mining: MiningConfig | None = None
        """Train on hard anchors only; none: on all."""
        box_loss: BoxLossConfig = field(default_factory=SmoothL1Loss.Config)
        """Box loss."""
        box_weight: float = 1.0
        """Factor on the box loss."""
        normalizer: NormalizerKind = "global"
        """What the losses are divided by: positives of the whole step over all processes (global),
        of each image (per_image), or a moving average of the former (ema)."""
        delta_weights: DeltaWeights = (1.0, 1.0, 1.0, 1.0)
        """Factors on the encoded box deltas x, y, w, h."""
        inference: Inference.Config = field(default_factory=Inference.Config)
        """Selection and suppression of detections."""
        stream_from: int = 2048
        """Outputs of the last classification convolution (anchors x categories) from which it is
        computed a few categories at a time, together with its loss or the selection of detections,
        so that its logits never exist all at once."""

        def __post_init__(self) -> None:
            self._require(self.box_weight >= 0, "box_weight", "at least 0")
            self._require(all(w > 0 for w in self.delta_weights), "delta_weights", "positive")
            self._require(self.stream_from >= 0, "stream_from", "at least 0")

        def offline(self) -> RetinaNet.Config:
            """The same detector without initial weights: to load trained ones into."""
            return dataclasses.replace(self, backbone=self.backbone.offline())

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> RetinaNet:
            """The detector for K categories, in channels_last memory.

            Args:
                num_classes: K.
                counts: how often each occurs in training, for losses that weigh categories.

            Raises:
                ConfigError: parts that don't fit together, or backbone weights that can't be had.
            """
            backbone = self.backbone.build()
            neck = self.neck.build(backbone.channels)
            model = RetinaNet(
                num_classes=num_classes,
                pixels=self.pixels.build(backbone.mean, backbone.std),
                backbone=backbone,
                neck=neck,
                anchors=self.anchors.build(neck.strides),
                head=self.head.build(neck.channels, self.anchors.per_location, num_classes),
                assigner=self.assigner.build(num_classes),
                loss=self.loss.build(num_classes, counts),
                mining=self.mining,
                box_loss=self.box_loss.build(),
                box_weight=self.box_weight,
                normalizer=self.normalizer,
                coder=DeltaCoder(self.delta_weights),
                inference=self.inference.build(),
                stream_from=self.stream_from,
            )
            return model.to(memory_format=torch.channels_last)

    def __init__(
        self,
        *,
        num_classes: int,
        pixels: PixelNorm,
        backbone: nn.Module,
        neck: FPN,
        anchors: AnchorGenerator,
        head: DenseHead,
        assigner: MaxIoUAssigner,
        loss: nn.Module,
        mining: MiningConfig | None = None,
        box_loss: nn.Module,
        box_weight: float = 1.0,
        normalizer: NormalizerKind = "global",
        coder: BoxCoder,
        inference: Inference,
        stream_from: int = 2048,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.pixels = pixels
        self.backbone = backbone
        self.neck = neck
        self.anchors = anchors
        self.head = head
        self.assigner = assigner
        self.loss = loss
        self.mining = mining
        self.box_loss = box_loss
        self.box_weight = box_weight
        self.loss_normalizer = LossNormalizer(normalizer)
        self.coder = coder
        self.inference = inference
        self.streams = head.cls_logits.out_channels >= stream_from

    def forward(self, batch: Batch, normalizer: Tensor | None = None) -> LossTerms:
        """See `Detector.forward`."""
        levels = self.features(batch)
        cls_maps = [self.head.cls_tower(level) for level in levels]
        assignment = self.mined(batch, cls_maps)
        if normalizer is None:
            normalizer = self.loss_normalizer(counted(self.mining, assignment, self.num_classes))
        positive = assignment.positives(self.num_classes)
        deltas = self.head.regress_at(levels, positive)
        matched = match(self.priors(batch), assignment, batch.targets, positive, deltas)
        return LossTerms(
            classification=self.classification_loss(
                cls_maps, assignment.labels, matched, normalizer
            ),
            box=box_regression_loss(
                self.box_loss, self.coder, matched, self.box_weight / normalizer[matched.image]
            ),
            positives=positive.sum(),
        )

    def normalizer(self, batch: Batch, parts: Sequence[slice] = WHOLE) -> Tensor:
        """See `Detector.normalizer`; mining depends on predictions."""
        z: Tensor
        if self.mining is None:
            z = self.loss_normalizer(self.assign(batch).positives(self.num_classes).sum(dim=1))
            return z
        numbers = []
        with predicting(self):
            for part in parts:
                levels = self.features(batch[part])
                assignment = self.mined(batch[part], [self.head.cls_tower(x) for x in levels])
                numbers.append(counted(self.mining, assignment, self.num_classes))
        z = self.loss_normalizer(torch.cat(numbers))
        return z

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Detections]:
        """See `Detector.detect`."""
        towers = self.head.towers(self.features(batch))
        priors, inference = self.priors(batch), self.inference
        last, k = self.head.cls_logits, self.num_classes
        if self.streams:
            levels = streamed_topk(
                towers.cls, last.weight, last.bias, k, inference.pre_nms, inference.least_logit
            )
        else:  # one level's logits at a time
            levels = [inference.select(self.head.classify([level])) for level in towers.cls]
        deltas = self.head.regress(towers.box)
        return inference(levels, k, deltas, priors, batch, self.coder.decode)

    @torch.no_grad()
    def samples(self, batch: Batch) -> Samples:
        """See `Detector.samples`."""
        levels = self.features(batch)
        cls_maps = [self.head.cls_tower(level) for level in levels]
        assignment = self.mined(batch, cls_maps)
        positive = assignment.positives(self.num_classes)
        deltas = self.head.regress_at(levels, positive)
        matched = match(self.priors(batch), assignment, batch.targets, positive, deltas)
        iou = paired_iou(self.coder.decode(matched.deltas, matched.anchors), matched.boxes)
        logits = self.head.classify(cls_maps)
        return Samples.of(logits, assignment.labels, matched, iou)

    def diagnose(self, batch: Batch) -> Diagnosis:
        """See `Detector.diagnose`."""
        return diagnose(self, batch)

    def features(self, batch: Batch) -> tuple[Tensor, ...]:
        """The pyramid's maps ``(B, C, H, W)``."""
        levels: tuple[Tensor, ...] = self.neck(self.backbone(self.pixels(batch)))
        return levels

    def priors(self, batch: Batch) -> Priors:
        """The anchors of a batch's images."""
        return self.anchors(padded_hw(batch), batch.images.device)

    def assign(self, batch: Batch) -> Assignment:
        """What every anchor of a batch answers for."""
        assignment: Assignment = self.assigner(self.priors(batch), batch.targets)
        return assignment

    def mined(self, batch: Batch, cls_maps: Sequence[Tensor]) -> Assignment:
        """What every anchor answers for, those ignored that mining leaves out."""
        return mine(self.mining, self.head, cls_maps, self.assign(batch), self.priors(batch))

    def classification_loss(
        self, features: Sequence[Tensor], labels: Tensor, matched: Matched, normalizer: Tensor
    ) -> Tensor:
        """Scalar, from the classification tower's maps, labels ``(B, A)`` and divisors ``(B,)``."""
        iou = None
        if isinstance(self.loss, QualityLoss):
            boxes = self.coder.decode(matched.deltas.detach(), matched.anchors)
            iou = paired_iou(boxes, matched.boxes)
        return classification_loss(
            self.loss,
            self.head,
            features,
            labels,
            matched,
            iou,
            normalizer,
            per_image=self.loss_normalizer.kind == "per_image",
            streams=self.streams,
        )
