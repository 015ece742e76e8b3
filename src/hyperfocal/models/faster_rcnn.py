"""Faster R-CNN with a feature pyramid (Ren et al., NeurIPS 2015; Lin et al., CVPR 2017)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hyperfocal.losses import (
    ClassificationLossConfig,
    QualityLoss,
    SoftmaxCrossEntropyLoss,
    category_logits,
    class_scores,
    num_logits,
)
from hyperfocal.models.backbone import Backbone, with_first_stride
from hyperfocal.models.detector import (
    WHOLE,
    CategoryRows,
    Detector,
    DetectorConfig,
    predicting,
)
from hyperfocal.models.divisors import divisors_of_step
from hyperfocal.models.fpn import FPN
from hyperfocal.models.inference import Inference, image_sizes
from hyperfocal.models.pixels import PixelNorm, padded_hw
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.roi_head import RoIHead, RoIOutputs
from hyperfocal.models.roles import BackboneConfig, NeckConfig
from hyperfocal.models.rpn import RPN
from hyperfocal.models.samples import Samples
from hyperfocal.ops import paired_iou, stable_topk
from hyperfocal.types import (
    Batch,
    CategoryCounts,
    ConfigError,
    Detections,
    LossTerms,
    Priors,
)


class FasterRCNN(Detector):
    """A region proposal network, and a classifier and box regressor for its proposals.

    The losses of the sampled anchors and RoIs are divided by the numbers of both in the step, over
    all processes. For micro-batches, `divisors` first runs the network without gradients to count
    the RoIs, because the number of proposals depends on predictions. Anchors and RoIs are sampled
    with a random generator per image (`Batch.seeds`), so the sample doesn't depend on the number
    of processes or micro-batches.

    The classification loss is any `ClassificationLossConfig`; the classifier has as many outputs
    as it declares.

    Args:
        num_classes: K.
        counts: images and boxes per category, for losses that weight categories.
        config: the settings; default: `FasterRCNN.Config()`.
        settings: fields of the config that replace those of ``config``; for ``backbone`` also the
            name of a timm model.

    Examples:
        >>> import hyperfocal, torch
        >>> from hyperfocal.models import Backbone
        >>> small = Backbone.Config("test_resnet", pretrained=False)
        >>> model = hyperfocal.FasterRCNN(num_classes=3, backbone=small)
        >>> images = [torch.rand(3, 64, 96)]
        >>> boxes = torch.tensor([[8.0, 8.0, 60.0, 56.0]])
        >>> targets = [{"boxes": boxes, "labels": torch.tensor([1])}]
        >>> sorted(model(images, targets))
        ['box', 'classification', 'rpn_box', 'rpn_classification']
        >>> sorted(model.eval()(images)[0])
        ['boxes', 'labels', 'scores']
    """

    backbone_part: ClassVar[str | None] = "backbone"
    head_part: ClassVar[str | None] = "roi_head"
    classifier: ClassVar[str | None] = "roi_head.cls_logits"
    statistics: ClassVar[tuple[str, ...]] = ("class_loss",)

    @dataclass(frozen=True)
    class Config(DetectorConfig):
        """Settings of `FasterRCNN`."""

        kind: ClassVar[str] = "faster_rcnn"
        follows_loss: ClassVar[bool] = True
        kept_when_swapped: ClassVar[tuple[str, ...]] = ("weights", "backbone", "pixels", "loss")

        backbone: BackboneConfig = field(default_factory=Backbone.Config)
        """Backbone network."""
        pixels: PixelNorm.Config = field(default_factory=PixelNorm.Config)
        """Pixel normalisation."""
        neck: NeckConfig = field(
            default_factory=lambda: FPN.Config(first_stride=4, extra_source="pool")
        )
        """Feature pyramid: P2 to P6."""
        anchors: AnchorGenerator.Config = field(
            default_factory=lambda: AnchorGenerator.Config((8.0,), 1)
        )
        """Anchors of the proposal network: sides of 8 strides, 32 to 512 pixels."""
        rpn: RPN.Config = field(default_factory=RPN.Config)
        """Region proposal network."""
        roi_head: RoIHead.Config = field(default_factory=RoIHead.Config)
        """Classifier and box regressor of proposals."""
        loss: ClassificationLossConfig = field(default_factory=SoftmaxCrossEntropyLoss.Config)
        """Classification loss of RoIs."""
        box_weight: float = 1.0
        """Factor on the box loss of RoIs."""
        rpn_weight: float = 1.0
        """Factor on both losses of the proposal network."""
        inference: Inference.Config = field(default_factory=Inference.Config)
        """Selection and suppression of detections; pre_nms is the maximum number of pairs of RoI
        and category."""

        def __post_init__(self) -> None:
            for name in ("box_weight", "rpn_weight"):
                self._require(getattr(self, name) >= 0, name, "at least 0")
            backbone = with_first_stride(self.backbone, self.neck)
            object.__setattr__(self, "backbone", backbone)  # frozen

        @property
        def max_detections(self) -> int | None:
            """Maximum number of detections per image."""
            return self.inference.max_detections

        def with_max_detections(self, most: int) -> Self:
            """The settings with another maximum number of detections per image."""
            limited = dataclasses.replace(self.inference, max_detections=most)
            return dataclasses.replace(self, inference=limited)

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> FasterRCNN:
            """The detector for K categories, in channels_last memory.

            Args:
                num_classes: K.
                counts: images and boxes per category, for losses that weight categories.

            Raises:
                ConfigError: incompatible parts, or backbone weights that can't be loaded.
            """
            return FasterRCNN(num_classes, counts=counts, config=self)

        def offline(self) -> Self:
            """The same detector without initial weights, for loading a trained state dict."""
            return dataclasses.replace(self, weights=None, backbone=self.backbone.offline())

    def __init__(
        self,
        num_classes: int,
        *,
        counts: CategoryCounts | None = None,
        config: FasterRCNN.Config | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        config = _with_settings(config or FasterRCNN.Config(), settings)
        if config.weights is not None:
            raise ConfigError(
                f"weights = {config.weights}: they are matched by category names, which a detector "
                "doesn't have; use hyperfocal.fine_tuning.build_detector"
            )
        self.config = config
        self.num_classes = num_classes
        self.backbone = config.backbone.build()
        self.pixels = config.pixels.build(self.backbone.mean, self.backbone.std)
        self.neck = config.neck.build(self.backbone.channels)
        self.anchors = config.anchors.build(self.neck.strides)
        self.rpn = config.rpn.build(self.neck.channels, config.anchors.per_location)
        self.class_loss = config.loss.with_own_logits().build(num_classes, counts)
        if isinstance(self.class_loss, QualityLoss):
            raise ConfigError(
                f"faster_rcnn: loss = {config.loss.kind} has the IoU of predicted boxes as target, "
                "which is only for dense detectors"
            )
        self.roi_head = config.roi_head.build(
            self.neck.channels, self.neck.strides, num_classes, self.class_loss
        )
        self.inference = config.inference.build()
        self.to(memory_format=torch.channels_last)

    @property
    def loss(self) -> nn.Module:
        """The classification loss of RoIs."""
        return self.class_loss

    @property
    def category_rows(self) -> tuple[CategoryRows, ...]:
        """Classifier and box regressor, as far as they have outputs by category in label order."""
        k, rows = self.num_classes, []
        if category_logits(self.class_loss, k) == tuple(range(k)):
            others = num_logits(self.class_loss, k) - k
            rows.append(CategoryRows("roi_head.cls_logits", 1, others=others))
        if not self.config.roi_head.class_agnostic:
            rows.append(CategoryRows("roi_head.box_deltas", 4, category_first=True))
        return tuple(rows)

    # ------------------------------------------------------------------- training

    def loss_terms(self, batch: Batch, divisors: Tensor | None = None) -> LossTerms:
        """See `Detector.loss_terms`."""
        levels, priors, generators = self.features(batch), self.priors(batch), _generators(batch)
        outputs = self.rpn(levels)
        assignment = self.rpn.assign(priors, batch.targets)
        proposals = self.rpn.propose(outputs, priors, [s.valid_hw for s in image_sizes(batch)])
        rois = self.roi_head.sample(proposals, batch.targets, generators)
        if divisors is None:
            counts = torch.bincount(rois.image, minlength=len(batch))
            divisors = divisors_of_step(torch.stack((self.rpn.counts(assignment), counts), dim=1))
        anchors, regions = divisors[0].unbind()
        first = self.rpn.losses(outputs, priors, assignment, batch.targets, anchors, generators)
        found = self.roi_head(levels, rois.boxes, rois.image)
        second = self.roi_head.losses(found, rois, self.class_loss, regions)
        settings = self.config
        return LossTerms(
            {
                "classification": second.classification,
                "box": settings.box_weight * second.box,
                "rpn_classification": settings.rpn_weight * first.classification,
                "rpn_box": settings.rpn_weight * first.box,
            },
            positives=(rois.labels < self.num_classes).sum(),
        )

    def divisors(self, batch: Batch, parts: Sequence[slice] = WHOLE) -> Tensor:
        """``(B, 2)``: number of sampled anchors and of RoIs in the step; see `Detector`."""
        counts = []
        with predicting(self), torch.no_grad():
            self.rpn.train()  # as many proposals as in training
            for one in (batch[part] for part in parts):
                priors = self.priors(one)
                outputs = self.rpn(self.features(one))
                hw = [s.valid_hw for s in image_sizes(one)]
                proposals = self.rpn.propose(outputs, priors, hw)
                rois = self.roi_head.sample(proposals, one.targets, _generators(one))
                anchors = self.rpn.counts(self.rpn.assign(priors, one.targets))
                found = torch.bincount(rois.image, minlength=len(one))
                counts.append(torch.stack((anchors, found), dim=1))
        return divisors_of_step(torch.cat(counts))

    # ------------------------------------------------------------------- inference

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Detections]:
        """See `Detector.detect`."""
        levels, sizes = self.features(batch), image_sizes(batch)
        proposals = self.rpn.propose(
            self.rpn(levels), self.priors(batch), [s.valid_hw for s in sizes]
        )
        found = []
        for b, (boxes, size) in enumerate(zip(proposals, sizes, strict=True)):
            image = torch.full((len(boxes),), b, device=boxes.device)
            outputs: RoIOutputs = self.roi_head(levels, boxes, image)
            scores = class_scores(self.class_loss, outputs.logits).flatten()
            # Only the selected pairs are decoded: all boxes of 1203 categories would fill memory.
            pairs = (scores > self.inference.score_threshold).nonzero().squeeze(1)
            pairs = pairs[stable_topk(scores[pairs], self.inference.pre_nms)]
            roi, labels = pairs // self.num_classes, pairs % self.num_classes
            decoded = self.roi_head.decode(outputs, boxes, roi, labels)
            found.append(self.inference.suppress(decoded, scores[pairs], labels, size))
        return found

    # ------------------------------------------------------------------- shared

    def features(self, batch: Batch) -> tuple[Tensor, ...]:
        """The pyramid's maps ``(B, C, H, W)``."""
        levels: tuple[Tensor, ...] = self.neck(self.backbone(self.pixels(batch)))
        return levels

    def priors(self, batch: Batch) -> Priors:
        """The anchors of a batch's images."""
        return self.anchors(padded_hw(batch), batch.images.device)

    @torch.no_grad()
    def samples(self, batch: Batch) -> Samples:
        """See `Detector.samples`; the rows are RoIs, padded with ignored ones to equal numbers."""
        levels, generators = self.features(batch), _generators(batch)
        proposals = self.rpn.propose(
            self.rpn(levels), self.priors(batch), [s.valid_hw for s in image_sizes(batch)]
        )
        rois = self.roi_head.sample(proposals, batch.targets, generators)
        outputs: RoIOutputs = self.roi_head(levels, rois.boxes, rois.image)
        positive = (rois.labels < self.num_classes).nonzero().squeeze(1)
        iou = torch.zeros(len(rois.labels), device=rois.boxes.device)
        decoded = self.roi_head.decode(outputs, rois.boxes, positive, rois.labels[positive])
        iou[positive] = paired_iou(decoded, rois.gt[positive])
        return Samples.padded(outputs.logits, rois.labels, iou, rois.image, len(batch))


def _with_settings(config: FasterRCNN.Config, settings: Mapping[str, Any]) -> FasterRCNN.Config:
    rest = dict(settings)
    if isinstance(name := rest.get("backbone"), str):
        now = config.backbone if isinstance(config.backbone, Backbone.Config) else Backbone.Config()
        rest["backbone"] = dataclasses.replace(now, name=name)
    config.check_names(rest)
    return dataclasses.replace(config, **rest)


def _generators(batch: Batch) -> list[torch.Generator]:
    """A random generator per image; without seeds, from PyTorch's default generator."""
    seeds = batch.seeds or torch.randint(2**62, (len(batch),)).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]
