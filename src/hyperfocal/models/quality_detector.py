"""What FCOS, ATSS and PAA have in common: a dense head with a quality branch, and how it trains."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfocal.losses.streamed_topk import streamed_topk
from hyperfocal.models.classification import classification_loss
from hyperfocal.models.detector import WHOLE, Detector, predicting
from hyperfocal.models.diagnosis import Diagnosis, diagnose
from hyperfocal.models.head import TowerFeatures
from hyperfocal.models.matched import Matched, box_regression_loss, match
from hyperfocal.models.mining import counted, mine
from hyperfocal.models.normalizer import step_divisors
from hyperfocal.models.pixels import padded_hw
from hyperfocal.models.quality import centerness
from hyperfocal.models.quality_config import Parts
from hyperfocal.models.samples import Samples
from hyperfocal.ops import paired_iou
from hyperfocal.types import Assignment, Batch, Detections, LossTerms, Priors


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
        self.mining = parts.mining
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
            normalizer = self._divisors(self._counted(rows), rows.target, len(batch))
        number, divisor = normalizer.unbind(dim=1)
        matched = rows.matched
        box_weight = self.box_weight / divisor[matched.image]
        if self.quality.weigh_boxes:
            box_weight = box_weight * rows.target
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
            box=box_regression_loss(self.box_loss, self.coder, matched, box_weight),
            quality=self.quality.weight * (cross_entropy / number[matched.image]).sum(),
            positives=torch.tensor(len(matched.image), device=rows.target.device),
        )

    def normalizer(self, batch: Batch, parts: Sequence[slice] = WHOLE) -> Tensor:
        """``(B, 2)``; see `Detector.normalizer` and the class."""
        if self.known_beforehand and self.mining is None:
            priors, assignment = self.priors(batch), self.assign(batch)
            positive = assignment.positives(self.num_classes)
            nothing = priors.boxes.new_zeros(int(positive.sum()), 4)
            matched = match(priors, assignment, batch.targets, positive, nothing)
            return self._divisors(positive.sum(), _centerness(matched), len(batch))
        numbers, targets = [], []
        with predicting(self):
            for part in parts:
                levels = self.features(batch[part])
                cls_maps = [self.head.cls_tower(level) for level in levels]
                rows = self.positives(batch[part], levels, cls_maps)
                numbers.append(self._counted(rows))
                targets.append(rows.target)
        return self._divisors(torch.stack(numbers).sum(), torch.cat(targets), len(batch))

    @torch.no_grad()
    def detect(self, batch: Batch) -> list[Detections]:
        """See `Detector.detect`."""
        towers, priors = self.head.towers(self.features(batch)), self.priors(batch)
        quality = self.head.assess(towers)
        assert quality is not None
        by_level = torch.split(quality, list(priors.level_sizes), dim=1)
        last, k = self.head.cls_logits, self.num_classes
        levels = streamed_topk(
            towers.cls,
            last.weight,
            last.bias,
            k,
            self.inference.pre_nms,
            self.inference.least_class_logit(self.quality),
            self.inference.rank(by_level, self.quality),
        )
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

    def diagnose(self, batch: Batch) -> Diagnosis:
        """See `Detector.diagnose`."""
        return diagnose(self, batch)

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
        assignment = mine(self.mining, self.head, cls_maps, assignment, priors)
        if assignment is not candidates:
            kept = assignment.positives(self.num_classes)[may]
            matched = Matched(*(values[kept] for values in matched))
            quality = quality[kept]
        boxes = self.coder.decode(matched.deltas.detach(), matched.anchors)
        iou = paired_iou(boxes, matched.boxes)
        target = _centerness(matched) if self.quality.target == "centerness" else iou
        return Positives(assignment, matched, iou, target, quality)

    def _counted(self, rows: Positives) -> Tensor:
        return counted(self.mining, rows.assignment, self.num_classes).sum()

    def _divisors(self, number: Tensor, target: Tensor, images: int) -> Tensor:
        if self.quality.weigh_boxes:
            return step_divisors(number, target.sum(), images)
        return step_divisors(number, number, images, least_weight=1.0)


def _centerness(matched: Matched) -> Tensor:
    centers = (matched.anchors[:, :2] + matched.anchors[:, 2:]) / 2
    return centerness(centers, matched.boxes)
