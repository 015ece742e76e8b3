"""What FCOS, ATSS and PAA have in common: a dense head with a quality branch, and how it trains."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperfocal import config
from hyperfocal.losses import (
    BoxLossConfig,
    ClassificationLossConfig,
    GIoULoss,
    SigmoidFocalLoss,
)
from hyperfocal.losses.streamed_topk import TopPairs
from hyperfocal.models.backbone import Backbone
from hyperfocal.models.classification import classification_loss
from hyperfocal.models.detector import SHARED_FIELDS, WHOLE, Detector
from hyperfocal.models.fpn import FPN
from hyperfocal.models.head import DenseHead, TowerFeatures, join_levels
from hyperfocal.models.inference import Inference
from hyperfocal.models.matched import Matched, match
from hyperfocal.models.normalizer import step_divisors
from hyperfocal.models.pixels import PixelNorm, padded_hw
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.quality import QualityBranch, centerness
from hyperfocal.models.samples import Samples
from hyperfocal.ops import BoxCoder, paired_iou
from hyperfocal.types import Assignment, Batch, CategoryCounts, Detections, LossTerms, Priors


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
    computed a few categories at a time, and detections are selected an image at a time."""

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
            box_loss=self.box_loss.build(),
            box_weight=self.box_weight,
            quality=self.quality,
            inference=self.inference.build(),
            stream_from=self.stream_from,
        )


class Positives(NamedTuple):
    """The positives of a batch, and what is learned from them.

    Attributes:
        assignment: of every prior.
        matched: P positives with their boxes and box outputs.
        iou: ``(P,)`` of the predicted boxes, without gradient.
        target: ``(P,)`` of the quality branch.
        quality: ``(P,)`` its logits.
    """

    assignment: Assignment
    matched: Matched
    iou: Tensor
    target: Tensor
    quality: Tensor


class QualityDetector(Detector):
    """A dense detector with a quality branch.

    With N positives, quality targets t_i and quality logits q_i::

        (Σ classification + w_q Σ_i BCE(q_i, t_i)) / N  +  w_b Σ_i t_i · box_i / Σ_i t_i

    (box losses unweighted and over N without ``weigh_boxes``), where N and the sum of targets are
    those of the whole optimizer step over all processes.

    **What is exact.** Centerness and a fixed assignment are known before the network runs, so
    micro-batches give the gradients of the whole batch. IoU targets and PAA's positives depend on
    predictions: in one piece they are summed over the processes in the forward pass; for
    micro-batches `normalizer` runs the network once more on the same parts without gradients. That
    is exact with frozen batch norms or none, and close otherwise, as it sees their running
    statistics.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.num_classes = parts.num_classes
        self.pixels = parts.pixels
        self.backbone = parts.backbone
        self.neck = parts.neck
        self.anchors = parts.anchors
        self.head = parts.head
        self.assigner = parts.assigner
        self.coder = parts.coder
        self.loss = parts.loss
        self.box_loss = parts.box_loss
        self.box_weight = parts.box_weight
        self.quality = parts.quality
        self.inference = parts.inference
        self.streams = parts.head.cls_logits.out_channels >= parts.stream_from
        self.to(memory_format=torch.channels_last)

    @property
    @abstractmethod
    def known_beforehand(self) -> bool:
        """Whether positives and quality targets don't depend on predictions."""

    def forward(self, batch: Batch, normalizer: Tensor | None = None) -> LossTerms:
        """See `Detector.forward`."""
        levels = self.features(batch)
        cls_maps = [self.head.cls_tower(level) for level in levels]
        rows = self.positives(batch, levels, cls_maps)
        if normalizer is None:
            normalizer = self._divisors(rows.target, len(batch))
        number, weights = normalizer.unbind(dim=1)
        matched = rows.matched
        cross_entropy = F.binary_cross_entropy_with_logits(
            rows.quality, rows.target, reduction="none"
        )
        return LossTerms(
            classification=classification_loss(
                self.loss,
                self.head,
                cls_maps,
                rows.assignment.labels,
                matched,
                rows.iou,
                number,
                per_image=False,
                streams=self.streams,
            ),
            box=self._box_loss(rows, weights),
            quality=self.quality.weight * (cross_entropy / number[matched.image]).sum(),
            positives=torch.tensor(len(matched.image), device=rows.target.device),
        )

    def normalizer(self, batch: Batch, parts: Sequence[slice] = WHOLE) -> Tensor:
        """``(B, 2)``; see `Detector.normalizer` and the class."""
        if self.known_beforehand:
            priors, assignment = self.priors(batch), self.assign(batch)
            positive = assignment.positives(self.num_classes)
            nothing = priors.boxes.new_zeros(int(positive.sum()), 4)
            matched = match(priors, assignment, batch.targets, positive, nothing)
            return self._divisors(_centerness(matched), len(batch))
        was_training, targets = self.training, []
        self.eval()
        with torch.no_grad():
            for part in parts:
                levels = self.features(batch[part])
                cls_maps = [self.head.cls_tower(level) for level in levels]
                targets.append(self.positives(batch[part], levels, cls_maps).target)
        self.train(was_training)
        return self._divisors(torch.cat(targets), len(batch))

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Detections]:
        """See `Detector.detect`."""
        towers, priors = self.head.towers(self.features(batch)), self.priors(batch)
        quality = self.head.assess(towers)
        assert quality is not None
        levels = [
            self._select(level, part)
            for level, part in zip(
                towers.cls, torch.split(quality, list(priors.level_sizes), dim=1), strict=True
            )
        ]
        return self.inference(
            levels,
            self.num_classes,
            self.head.regress(towers.box),
            priors,
            batch,
            self.coder.decode,
            quality,
            self.quality,
            self.voting,
        )

    @torch.no_grad()
    def samples(self, batch: Batch) -> Samples:
        """See `Detector.samples`."""
        levels = self.features(batch)
        cls_maps = [self.head.cls_tower(level) for level in levels]
        rows = self.positives(batch, levels, cls_maps)
        logits = self.head.classify(cls_maps)
        return Samples.of(logits, rows.assignment.labels, rows.matched, rows.iou)

    @property
    def voting(self) -> float | None:
        """Spread of the score voting, None for none."""
        return None

    def features(self, batch: Batch) -> tuple[Tensor, ...]:
        """The pyramid's maps ``(B, C, H, W)``."""
        levels: tuple[Tensor, ...] = self.neck(self.backbone(self.pixels(batch)))
        return levels

    def priors(self, batch: Batch) -> Priors:
        """The priors of a batch's images."""
        return self.anchors(padded_hw(batch), batch.images.device)

    def assign(self, batch: Batch) -> Assignment:
        """What every prior may answer for, before the network has run."""
        assignment: Assignment = self.assigner(self.priors(batch), batch.targets)
        return assignment

    def choose(
        self, candidates: Assignment, matched: Matched, priors: Priors, cls_maps: Sequence[Tensor]
    ) -> Assignment:
        """What every prior answers for; ``matched`` are the candidates."""
        return candidates

    def positives(
        self, batch: Batch, levels: Sequence[Tensor], cls_maps: Sequence[Tensor]
    ) -> Positives:
        """The positives, from the pyramid's maps and those of the classification tower."""
        priors, candidates = self.priors(batch), self.assign(batch)
        may = candidates.positives(self.num_classes)
        outputs = self.head.box_outputs_at(levels, may)
        matched = match(priors, candidates, batch.targets, may, outputs.box)
        quality = outputs.quality
        if quality is None:  # the branch stands on the classification tower
            assessed = self.head.assess(TowerFeatures(tuple(cls_maps), ()))
            assert assessed is not None
            quality = assessed[may].float()
        assignment = self.choose(candidates, matched, priors, cls_maps)
        if assignment is not candidates:
            kept = assignment.positives(self.num_classes)[may]
            matched = Matched(*(values[kept] for values in matched))
            quality = quality[kept]
        boxes = self.coder.decode(matched.deltas.detach(), matched.anchors)
        iou = paired_iou(boxes, matched.boxes)
        target = _centerness(matched) if self.quality.target == "centerness" else iou
        return Positives(assignment, matched, iou, target, quality)

    def _divisors(self, target: Tensor, images: int) -> Tensor:
        number = torch.tensor(len(target), device=target.device)
        weights = target.sum() if self.quality.weigh_boxes else number.clamp(min=1)
        return step_divisors(number, weights, images)

    def _box_loss(self, rows: Positives, divisor: Tensor) -> Tensor:
        matched = rows.matched
        weight = self.box_weight / divisor[matched.image]
        if self.quality.weigh_boxes:
            weight = weight * rows.target
        if self.box_loss.on_boxes:
            pred, wanted = self.coder.decode(matched.deltas, matched.anchors), matched.boxes
        else:
            pred, wanted = matched.deltas, self.coder.encode(matched.boxes, matched.anchors)
        loss: Tensor = self.box_loss(pred, wanted, weight=weight)
        return loss

    def _select(self, level: Tensor, quality: Tensor) -> list[TopPairs]:
        """The best pairs of each image on one level."""
        last, found = self.head.cls_logits, []
        step = 1 if self.streams else len(level)
        for start in range(0, len(level), step):
            part = slice(start, start + step)
            logits = join_levels([last(level[part])], self.num_classes)
            found += self.inference.select(logits, quality[part], self.quality)
        return found


def _centerness(matched: Matched) -> Tensor:
    centers = (matched.anchors[:, :2] + matched.anchors[:, 2:]) / 2
    return centerness(centers, matched.boxes)
