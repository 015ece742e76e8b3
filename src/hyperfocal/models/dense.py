"""`DenseDetector`, the base class of one-stage detectors, and their shared settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hyperfocal import config
from hyperfocal.assign import AssignerConfig, MaxIoUAssigner
from hyperfocal.losses import (
    BoxLossConfig,
    ClassificationLossConfig,
    GIoULoss,
    LossWithOwnLogits,
    SigmoidFocalLoss,
    SmoothL1Loss,
)
from hyperfocal.models.backbone import Backbone, with_first_stride
from hyperfocal.models.criterion import DenseCriterion, ImageTruth, Refine
from hyperfocal.models.detector import (
    SHARED_FIELDS,
    WHOLE,
    CategoryRows,
    Detector,
    DetectorConfig,
    predicting,
)
from hyperfocal.models.diagnosis import Diagnosis, diagnose_classification
from hyperfocal.models.divisors import LossDivisors
from hyperfocal.models.fpn import FPN
from hyperfocal.models.head import DenseHead, Head, HeadConfig, start_at
from hyperfocal.models.inference import Inference
from hyperfocal.models.pixels import PixelNorm, padded_hw
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.quality import QualityBranch
from hyperfocal.models.replays import Replays
from hyperfocal.models.roles import BackboneConfig, MiningConfig, NeckConfig
from hyperfocal.models.samples import Samples
from hyperfocal.models.streamed_topk import TopPairs, from_level, streamed_topk
from hyperfocal.ops import BoxCoder
from hyperfocal.types import Batch, CategoryCounts, ConfigError, Detections, LossTerms, Priors

MODULES = ("backbone", "neck", "head", "assigner", "loss", "box_loss")
"""Settings of a detector that may be modules instead of Configs."""

NOTHING_BUILT: Mapping[str, nn.Module] = MappingProxyType({})


@dataclass(frozen=True)
class DenseParts:
    """The parts of a `DenseDetector`.

    Attributes:
        pixels: normalises the images.
        backbone: computes maps at strides 8, 16 and 32; has ``channels``, ``mean`` and ``std`` like
            `Backbone`.
        neck: computes pyramid levels from them; has ``channels`` and ``strides`` like `FPN`.
        anchors: generates the priors of each level.
        head: predicts classes, boxes and quality from pyramid levels.
        criterion: the loss.
        inference: selection and suppression of detections.
        streams: compute the classification logits a few categories at a time, so that they are
            never all in memory.
        stream_logits: number of logits in memory at a time then; None: chosen by device.
    """

    pixels: PixelNorm
    backbone: nn.Module
    neck: nn.Module
    anchors: AnchorGenerator
    head: Head
    criterion: DenseCriterion
    inference: Inference
    streams: bool = False
    stream_logits: int | None = None


class DenseDetector(Detector):
    """A backbone, a feature pyramid, and a dense head that predicts at every prior.

    Training and inference are separate: `DenseCriterion` computes the loss from outputs and
    targets, `Inference` computes detections from outputs.

    Args:
        parts: see `DenseParts`.
    """

    backbone_part: ClassVar[str | None] = "backbone"
    head_part: ClassVar[str | None] = "head"
    classifier: ClassVar[str | None] = "head.cls_logits"
    statistics: ClassVar[tuple[str, ...]] = ("criterion",)

    def __init__(self, parts: DenseParts) -> None:
        super().__init__()
        self.num_classes = parts.criterion.num_classes
        self.pixels = parts.pixels
        self.backbone = parts.backbone
        self.neck = parts.neck
        self.anchors = parts.anchors
        self.head = parts.head
        self.criterion = parts.criterion
        self.inference = parts.inference
        self.streams = parts.streams
        self._replays = Replays()
        self.stream_logits = parts.stream_logits
        self.to(memory_format=torch.channels_last)

    @property
    def loss(self) -> nn.Module:
        """The classification loss."""
        return self.criterion.loss

    @property
    def category_rows(self) -> tuple[CategoryRows, ...]:
        """The classifiers, with one output per anchor and category."""
        anchors = self.head.num_anchors
        return tuple(CategoryRows(f"head.{name}", anchors) for name in self.head.classifiers)

    # ------------------------------------------------------------------- training

    def loss_terms(self, batch: Batch, divisors: Tensor | None = None) -> LossTerms:
        """See `Detector.loss_terms`."""
        terms: LossTerms = self.criterion(
            self.head, self.features(batch), self.truth(batch), divisors
        )
        return terms

    def divisors(self, batch: Batch, parts: Sequence[slice] = WHOLE) -> Tensor:
        """``(B, 2)``: divisors of sums over all priors, and of box losses; see `Detector`."""
        criterion, found = self.criterion, []
        if criterion.needs_predictions:
            with predicting(self):
                found = [self._counts(batch[part]) for part in parts]
        else:
            found = [criterion.known_counts(self.truth(batch))]
        weights = [weight for _, weight in found if weight is not None]
        divisors: Tensor = criterion.divisors(
            torch.cat([number for number, _ in found]), torch.cat(weights) if weights else None
        )
        return divisors

    def _counts(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        levels, criterion = self.features(batch), self.criterion
        cls_maps = self.head.cls_maps(levels)
        found = criterion.positives(self.head, levels, cls_maps, self.truth(batch))
        return criterion.counts(
            found, criterion.iou(found.matched) if criterion.needs_iou else None
        )

    def truth(self, batch: Batch) -> ImageTruth:
        """The priors and targets of a batch, for the criterion."""
        return ImageTruth(self.priors(batch), batch.targets)

    # ------------------------------------------------------------------- inference

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Detections]:
        """See `Detector.detect`."""
        cls_maps, deltas, quality = self._replays(self._outputs, self, self.pixels(batch))
        priors, branch = self.priors(batch), self.criterion.quality
        k, inference = self.num_classes, self.inference
        if branch is not None and quality is not None:
            by_level = torch.split(quality, list(priors.level_sizes), dim=1)
            least, rank = inference.least_class_logit(branch), inference.rank(by_level, branch)
        else:
            least, rank = inference.least_logit, None
        if rank is not None or self.streams:
            levels: list[list[TopPairs]] = []
            for maps, last in self.head.by_classifier(cls_maps):
                levels += streamed_topk(
                    *(maps, last.weight, last.bias, k, inference.pre_nms, least),
                    None if rank is None else from_level(rank, len(levels)),
                    logits_at_once=self.stream_logits,
                )
        else:  # one level's logits at a time
            logits = (self.head.classify_level(level, n) for n, level in enumerate(cls_maps))
            levels = [inference.select(level) for level in logits]
        decode = self.criterion.coder.decode
        return inference(levels, k, deltas, priors, batch, decode, quality, branch)

    def _outputs(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:
        """Maps of the classification tower, box outputs and quality of normalised images."""
        towers = self.head.towers(self.neck(self.backbone(images)))
        return towers.cls, self.head.regress(towers.box), self.head.assess(towers)

    # ------------------------------------------------------------------- shared

    def features(self, batch: Batch) -> tuple[Tensor, ...]:
        """The pyramid's maps ``(B, C, H, W)``."""
        levels: tuple[Tensor, ...] = self.neck(self.backbone(self.pixels(batch)))
        return levels

    def priors(self, batch: Batch) -> Priors:
        """The priors of a batch's images."""
        return self.anchors(padded_hw(batch), batch.images.device)

    # ------------------------------------------------------------------- looking inside

    @torch.no_grad()
    def samples(self, batch: Batch) -> Samples:
        """See `Detector.samples`."""
        return self.criterion.samples(self.head, self.features(batch), self.truth(batch))

    def diagnose(self, batch: Batch) -> Diagnosis:
        """See `Detector.diagnose`."""
        labels = self.criterion.assigner(self.priors(batch), batch.targets).labels
        maps = self.head.cls_maps(self.features(batch))
        logits = [self.head.classify_level(m, n).float() for n, m in enumerate(maps)]
        labels = self.criterion.classified(labels)
        return diagnose_classification(self.loss, logits, labels, self.num_classes)


@dataclass(frozen=True)
class DenseConfig(DetectorConfig):
    """Settings of all dense detectors."""

    kept_when_swapped: ClassVar[tuple[str, ...]] = SHARED_FIELDS

    backbone: BackboneConfig = field(default_factory=Backbone.Config)
    """Backbone network."""
    pixels: PixelNorm.Config = field(default_factory=PixelNorm.Config)
    """Pixel normalisation."""
    neck: NeckConfig = field(default_factory=FPN.Config)
    """Feature pyramid."""
    anchors: AnchorGenerator.Config = field(default_factory=AnchorGenerator.Config)
    """Anchors or locations."""
    head: HeadConfig = field(default_factory=DenseHead.Config)
    """Towers and predictions."""
    assigner: AssignerConfig = field(default_factory=MaxIoUAssigner.Config)
    """Assignment of anchors to objects."""
    loss: ClassificationLossConfig = field(default_factory=SigmoidFocalLoss.Config)
    """Classification loss."""
    mining: MiningConfig | None = None
    """Hard example mining; none: train on all priors."""
    box_loss: BoxLossConfig = field(default_factory=SmoothL1Loss.Config)
    """Box loss."""
    box_weight: float = 1.0
    """Factor on the box loss."""
    inference: Inference.Config = field(default_factory=Inference.Config)
    """Selection and suppression of detections."""
    stream_from: int = 2048
    """Number of outputs of the last classification convolution (anchors x categories) from which it
    is computed a few categories at a time, together with its loss or the selection of detections,
    so that its logits are never all in memory. With a quality branch, detections are always
    selected in this way."""
    stream_logits: int | None = None
    """Number of logits in memory at a time if they are computed a few categories at a time; none:
    the fastest on the device, 1/160 of a GPU's memory or 12 MiB on a CPU."""

    def __post_init__(self) -> None:
        own = self.backbone.weights if isinstance(self.backbone, Backbone.Config) else None
        if self.weights is not None and own is not None:
            raise ConfigError(
                f"model.weights = {self.weights} and model.backbone.weights = {own}: set only one; "
                "a detector's weights include its backbone's"
            )
        if self.loss.has_own_logits:
            raise ConfigError(
                no_sigmoids(self.kind, self.loss.kind or type(self.loss).__qualname__)
            )
        self._require(self.box_weight >= 0, "box_weight", "at least 0")
        self._require(self.stream_from >= 0, "stream_from", "at least 0")
        backbone = with_first_stride(self.backbone, self.neck)
        object.__setattr__(self, "backbone", backbone)  # frozen
        self._require(
            self.stream_logits is None or self.stream_logits >= 1, "stream_logits", "at least 1"
        )

    @property
    def max_detections(self) -> int | None:
        """Maximum number of detections per image."""
        return self.inference.max_detections

    def with_max_detections(self, most: int) -> Self:
        """The settings with another maximum number of detections per image."""
        limited = dataclasses.replace(self.inference, max_detections=most)
        return dataclasses.replace(self, inference=limited)

    def offline(self) -> Self:
        """The same detector without initial weights, for loading a trained state dict."""
        return dataclasses.replace(self, weights=None, backbone=self.backbone.offline())

    def with_settings(self, settings: Mapping[str, Any]) -> tuple[Self, dict[str, nn.Module]]:
        """The config with fields replaced, and the parts passed as modules.

        Args:
            settings: fields of the config by name: values, Configs, for ``backbone`` the name of a
                timm model, and for ``backbone``, ``neck``, ``head``, ``assigner``, ``loss`` and
                ``box_loss`` also a module, which is used unchanged.

        Raises:
            ConfigError: an unknown name, or a module for another field.
        """
        self.check_names(settings)
        for name, value in settings.items():
            if isinstance(value, nn.Module) and name not in MODULES:
                raise ConfigError(f"{self.kind}: {name} can't be a module; pass its Config")
        built = {name: v for name, v in settings.items() if isinstance(v, nn.Module)}
        rest = {name: v for name, v in settings.items() if name not in built}
        if isinstance(backbone := rest.get("backbone"), str):
            now = self.backbone if isinstance(self.backbone, Backbone.Config) else Backbone.Config()
            rest["backbone"] = dataclasses.replace(now, name=backbone)
        return dataclasses.replace(self, **rest), built

    def compose(
        self,
        num_classes: int,
        counts: CategoryCounts | None,
        built: Mapping[str, nn.Module],
        *,
        assigner: nn.Module,
        coder: BoxCoder,
        quality: QualityBranch | None = None,
        divisors: LossDivisors | None = None,
        refine: Refine | None = None,
        voting: float | None = None,
    ) -> DenseParts:
        """The parts of a detector.

        Args:
            num_classes: K.
            counts: images and boxes per category, for losses that weight categories.
            built: parts passed as modules, by field name.
            assigner: the assigner.
            coder: the box coding.
            quality: the quality branch.
            divisors: computes the divisors of the loss.
            refine: see `DenseCriterion`.
            voting: spread of the score voting.

        Raises:
            ConfigError: ``weights`` is set, which is only loaded by `train`.
        """
        if self.weights is not None:
            raise ConfigError(
                f"weights = {self.weights}: they are matched by category names, which a detector "
                "doesn't have; use hyperfocal.fine_tuning.transfer.build_detector"
            )
        loss: Any = built.get("loss") or self.loss.build(num_classes, counts)
        if isinstance(loss, LossWithOwnLogits):
            raise ConfigError(no_sigmoids(self.kind, type(loss).__name__))
        backbone: Any = built.get("backbone") or self.backbone.build()
        neck: Any = built.get("neck") or self.neck.build(backbone.channels)
        head: Any = built.get("head") or self.head.build(
            neck.channels,
            self.anchors.per_location,
            num_classes,
            num_levels=len(neck.strides),
            quality=None if quality is None else quality.tower,
        )
        box_loss: Any = built.get("box_loss") or self.box_loss.build()
        if quality is not None and quality.target == "object" and "head" not in built:
            start_at(head.quality_logits, self.head.prior_probability)
        outputs = head.num_anchors * num_classes
        streams = outputs >= self.stream_from and len(head.classifiers) == 1
        criterion = DenseCriterion(
            num_classes=num_classes,
            assigner=assigner,
            coder=coder,
            loss=loss,
            box_loss=box_loss,
            box_weight=self.box_weight,
            mining=self.mining,
            quality=quality,
            divisors=divisors,
            refine=refine,
            streams=streams,
            stream_logits=self.stream_logits,
        )
        return DenseParts(
            pixels=self.pixels.build(backbone.mean, backbone.std),
            backbone=backbone,
            neck=neck,
            anchors=self.anchors.build(neck.strides),
            head=head,
            criterion=criterion,
            inference=self.inference.build(voting),
            streams=streams,
            stream_logits=self.stream_logits,
        )


@dataclass(frozen=True)
class QualityConfig(DenseConfig):
    """Settings of dense detectors with a quality branch: FCOS, ATSS and PAA."""

    neck: NeckConfig = field(default_factory=lambda: FPN.Config(extra_source="p5"))
    """Feature pyramid."""
    anchors: AnchorGenerator.Config = field(
        default_factory=lambda: AnchorGenerator.Config((8.0,), 1, (1.0,), center_offset=0.5)
    )
    """Anchors or locations."""
    head: HeadConfig = field(
        default_factory=lambda: DenseHead.Config(norm="gn", tower_bias=True, level_scale=True)
    )
    """Towers and predictions."""
    box_loss: BoxLossConfig = field(default_factory=GIoULoss.Config)
    """Box loss."""
    quality: QualityBranch = field(default_factory=QualityBranch)
    """Quality branch, and how it enters the score."""
    inference: Inference.Config = field(default_factory=lambda: Inference.Config(nms_iou=0.6))
    """Selection and suppression of detections."""


def no_sigmoids(detector: str, loss: str) -> str:
    """The message for a loss that a dense detector can't use."""
    others = [
        f"--model {kind}"
        for kind, other in config.kinds(DetectorConfig).items()
        if issubclass(other, DetectorConfig) and other.follows_loss
    ]
    instead = ", or ".join(["a loss such as focal or efl", *others])
    return (
        f"{detector}: loss = {loss} has logits of its own (softmax, groups or objectness), but a "
        f"dense detector has one sigmoid per category; use {instead}"
    )


def as_dense(model: DetectorConfig) -> DenseConfig:
    """The settings, narrowed to `DenseConfig`.

    Raises:
        ConfigError: the detector isn't a dense detector.
    """
    if not isinstance(model, DenseConfig):
        raise ConfigError(f"{model.kind or type(model).__qualname__} isn't a dense detector")
    return model
