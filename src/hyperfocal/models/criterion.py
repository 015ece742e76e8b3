"""Loss of a dense detector from the head's outputs and the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperfocal.losses import BoxLoss, QualityLoss
from hyperfocal.models.divisors import LossDivisors
from hyperfocal.models.head import BoxOutputs, Head, TowerFeatures
from hyperfocal.models.matched import Matched, Where, box_regression_loss, match
from hyperfocal.models.mining import counted, mine
from hyperfocal.models.quality import QualityBranch, centerness_at
from hyperfocal.models.roles import MiningConfig
from hyperfocal.models.samples import Samples
from hyperfocal.models.streamed import streamed_loss, streams
from hyperfocal.ops import BoxCoder, paired_iou
from hyperfocal.types import Assignment, ConfigError, LossTerms, Priors, Target


class Refine(Protocol):
    """Selects the positives among an assigner's candidates by the network's outputs."""

    def __call__(
        self,
        head: Head,
        cls_maps: Sequence[Tensor],
        candidates: Positives,
        truth: ImageTruth,
    ) -> Assignment:
        """The final assignment, whose positives are candidates.

        Args:
            head: computes logits from ``cls_maps``.
            cls_maps: the classification tower's map of each level.
            candidates: those of the assigner, with their outputs.
            truth: priors and targets.
        """


@dataclass(frozen=True)
class ImageTruth:
    """The priors and targets of a batch."""

    priors: Priors
    targets: tuple[Target, ...]


class Positives(NamedTuple):
    """The assignment of a batch, and its P positives with their outputs.

    Attributes:
        assignment: of all priors; priors not selected by mining are ignored.
        matched: the positives.
        quality: ``(P,)`` logits of the quality branch; None without one.
        objectness: ``(B, A)`` logits of the branch at all priors if its target is objectness.
    """

    assignment: Assignment
    matched: Matched
    quality: Tensor | None
    objectness: Tensor | None = None


class DenseCriterion(nn.Module):
    """Loss of a dense detector: classification, boxes, and quality if it has a quality branch.

    Without a quality branch, with z_b the divisor of image b (see `LossDivisors`):

        Σ_b (classification_b + w_b · box_b) / z_b

    With N positives, quality logits q_i and targets t_i (centerness, or the IoU of the predicted
    box):

        (Σ classification + w_q Σ_i BCE(q_i, t_i)) / N  +  w_b Σ_i t_i · box_i / Σ_i t_i

    (box losses unweighted and over N without ``weigh_boxes``), where N and the sum of targets are
    those of the whole optimizer step over all processes. With objectness as target, its loss is a
    sum over all priors, with t_i = 1 for positives and 0 for others, and the classification loss is
    a sum over the positives.

    **Micro-batches.** A fixed assignment and centerness are known before the network runs, so
    micro-batches give exactly the gradients of the whole batch. IoU targets, mining and PAA's
    positives depend on predictions: without micro-batches they are summed over the processes in the
    forward pass; for micro-batches `DenseDetector.divisors` also runs the network on the same parts
    without gradients. This is exact with frozen batch norms or none, and approximate otherwise,
    because it uses their running statistics.

    Args:
        num_classes: K.
        assigner: computes an `Assignment` from priors and targets.
        coder: box coding.
        loss: classification loss, built by a `ClassificationLossConfig`.
        box_loss: box loss, built by a `BoxLossConfig`.
        box_weight: factor on the box loss.
        mining: selection of priors to train on; None: all.
        quality: the quality branch, or None.
        divisors: computes the divisors of the sums; detectors with a quality branch use ``global``.
        refine: selects the positives among candidates; None: those of the assigner.
        streams: compute classification and its loss a few categories at a time.
        stream_logits: number of logits in memory at a time then; None: chosen by device.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        assigner: nn.Module,
        coder: BoxCoder,
        loss: nn.Module,
        box_loss: BoxLoss,
        box_weight: float = 1.0,
        mining: MiningConfig | None = None,
        quality: QualityBranch | None = None,
        divisors: LossDivisors | None = None,
        refine: Refine | None = None,
        streams: bool = False,
        stream_logits: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(box_loss, BoxLoss):
            raise ConfigError(
                f"box_loss is a {type(box_loss).__name__}, but it must be a hyperfocal.losses."
                "BoxLoss, which declares whether it compares boxes or encoded outputs (on_boxes)"
            )
        self.num_classes = num_classes
        self.assigner = assigner
        self.coder = coder
        self.loss = loss
        self.box_loss = box_loss
        self.box_weight = box_weight
        self.mining = mining
        self.quality = quality
        self.divisors = divisors or LossDivisors()
        self.refine = refine
        self.streams = streams
        self.stream_logits = stream_logits

    def forward(
        self,
        head: Head,
        levels: Sequence[Tensor],
        truth: ImageTruth,
        divisors: Tensor | None = None,
    ) -> LossTerms:
        """The terms of the loss.

        Args:
            head: the detector's head.
            levels: the pyramid's maps ``(B, C, H, W)``.
            truth: priors and targets.
            divisors: ``(B, 2)`` from `DenseDetector.divisors`; None: those of this batch.
        """
        cls_maps = head.cls_maps(levels)
        found = self.positives(head, levels, cls_maps, truth)
        iou = self.iou(found.matched) if self.needs_iou else None
        if divisors is None:
            divisors = self.divisors(*self.counts(found, iou))
        number, weight = divisors.unbind(dim=1)
        matched, image = found.matched, found.matched.image
        target = self.quality_target(matched, iou)
        box_weight = self.box_weight / weight[image]
        if target is not None and self.weighs_boxes:
            box_weight = box_weight * target
        terms = {
            "classification": self.classification_loss(head, cls_maps, found, iou, number),
            "box": box_regression_loss(
                self.box_loss,
                self.coder,
                matched.deltas,
                matched.anchors,
                matched.boxes,
                weight=box_weight,
            ),
        }
        if self.quality is not None and found.quality is not None and target is not None:
            entropy = F.binary_cross_entropy_with_logits(found.quality, target, reduction="none")
            terms["quality"] = self.quality.weight * (entropy / number[image]).sum()
        if self.quality is not None and found.objectness is not None:
            labels = found.assignment.labels
            entropy = F.binary_cross_entropy_with_logits(
                found.objectness.float(),
                found.assignment.positives(self.num_classes).float(),
                weight=(labels >= 0) / number[:, None],
                reduction="sum",
            )
            terms["quality"] = self.quality.weight * entropy
        return LossTerms(terms, positives=torch.full((), len(image), device=image.device))

    def positives(
        self,
        head: Head,
        levels: Sequence[Tensor],
        cls_maps: Sequence[Tensor],
        truth: ImageTruth,
    ) -> Positives:
        """The assignment of all priors, and the outputs at the positive ones.

        Args:
            head: the detector's head.
            levels: the pyramid's maps.
            cls_maps: the classification tower's maps.
            truth: priors and targets.
        """
        priors = truth.priors
        assignment: Assignment = self.assigner(priors, truth.targets)
        if self.refine is None and self.mining is not None:
            assignment = mine(self.mining, head, cls_maps, assignment, priors)
        wanted = assignment.positives(self.num_classes)
        where = Where(*wanted.nonzero(as_tuple=True))
        objectness = None
        if self.learns_objects:
            towers = TowerFeatures(tuple(cls_maps), head.box_maps(levels))
            box, objectness = head.regress(towers.box), head.assess(towers)
            assert objectness is not None
            outputs = BoxOutputs(box[where].float(), objectness[where].float())
        else:
            outputs = head.box_outputs_at(levels, wanted, where)
        matched = match(priors, assignment, truth.targets, where, outputs.box)
        quality = outputs.quality
        if self.quality is not None and quality is None:  # the branch is on the class tower
            assessed = head.assess(TowerFeatures(tuple(cls_maps), ()))
            assert assessed is not None
            quality = assessed[wanted].float()
        found = Positives(assignment, matched, quality, objectness)
        if self.refine is None:
            return found
        assignment = self.refine(head, cls_maps, found, truth)
        assignment = mine(self.mining, head, cls_maps, assignment, priors)
        kept = assignment.positives(self.num_classes)[wanted]
        where = Where(where.image[kept], where.prior[kept])
        matched = match(priors, assignment, truth.targets, where, matched.deltas[kept])
        quality = None if quality is None else quality[kept]
        return Positives(assignment, matched, quality, objectness)

    def samples(self, head: Head, levels: Sequence[Tensor], truth: ImageTruth) -> Samples:
        """All logits with their labels, the inputs of the classification loss; see `Samples`."""
        cls_maps = head.cls_maps(levels)
        found = self.positives(head, levels, cls_maps, truth)
        logits = head.classify(cls_maps)
        labels = self.classified(found.assignment.labels)
        return Samples.of(logits, labels, found.matched, self.iou(found.matched))

    @property
    def learns_objects(self) -> bool:
        """Whether the quality branch learns objectness."""
        return self.quality is not None and self.quality.target == "object"

    def classified(self, labels: Tensor) -> Tensor:
        """Labels of the classification loss: with objectness, background is ignored (-1)."""
        return labels.where(labels != self.num_classes, -1) if self.learns_objects else labels

    # ------------------------------------------------------------------- divisors

    @property
    def needs_predictions(self) -> bool:
        """Whether the divisors depend on predictions."""
        by_iou = self.quality is not None and self.quality.target == "iou"
        return by_iou or self.refine is not None or self.mining is not None

    def known_counts(self, truth: ImageTruth) -> tuple[Tensor, Tensor | None]:
        """`counts` without running the network; only if ``needs_predictions`` is False."""
        assignment: Assignment = self.assigner(truth.priors, truth.targets)
        positive = assignment.positives(self.num_classes)
        where = Where(*positive.nonzero(as_tuple=True))
        nothing = truth.priors.boxes.new_zeros(len(where.image), 4)
        matched = match(truth.priors, assignment, truth.targets, where, nothing)
        return self.counts(Positives(assignment, matched, None), None)

    def counts(self, found: Positives, iou: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """For each image ``(B,)`` the number of positives, and the sum of their box weights.

        With mining's ``divide_by`` selected, the former is the number of selected priors. The
        latter is None if boxes aren't weighted.
        """
        number = counted(self.mining, found.assignment, self.num_classes)
        if not self.weighs_boxes:
            return number, None
        target = self.quality_target(found.matched, iou)
        assert target is not None
        weight = target.new_zeros(len(number)).index_add_(0, found.matched.image, target)
        return number, weight

    @property
    def weighs_boxes(self) -> bool:
        """Whether each positive's box loss is weighted by its quality target."""
        return self.quality is not None and self.quality.weigh_boxes

    # ------------------------------------------------------------------- targets of positives

    @property
    def needs_iou(self) -> bool:
        """Whether the loss has the IoU of predicted boxes as target."""
        by_iou = self.quality is not None and self.quality.target == "iou"
        return by_iou or isinstance(self.loss, QualityLoss)

    @torch.no_grad()
    def iou(self, matched: Matched) -> Tensor:
        """``(P,)`` IoU of the positives' predicted boxes with their objects."""
        boxes = self.coder.decode(matched.deltas, matched.anchors)
        return paired_iou(boxes, matched.boxes)

    def quality_target(self, matched: Matched, iou: Tensor | None) -> Tensor | None:
        """``(P,)`` targets of the quality branch; None without a branch."""
        if self.quality is None or self.learns_objects:
            return None
        if self.quality.target == "centerness":
            return centerness_at(matched.anchors, matched.boxes)
        assert iou is not None
        return iou

    # ------------------------------------------------------------------- terms

    def classification_loss(
        self,
        head: Head,
        cls_maps: Sequence[Tensor],
        found: Positives,
        iou: Tensor | None,
        divisor: Tensor,
    ) -> Tensor:
        """Scalar: the loss of all priors that aren't ignored, divided by each image's divisor.

        Args:
            head: its last convolution computes the logits.
            cls_maps: the classification tower's maps.
            found: assignment and positives.
            iou: ``(P,)`` IoU of the positives' predicted boxes; required by a `QualityLoss`.
            divisor: ``(B,)``, from `LossDivisors`.
        """
        loss, labels = self.loss, self.classified(found.assignment.labels)
        per_image = self.divisors.kind == "per_image"
        if not per_image:  # all are equal, so the loss is called once
            divisor = divisor[0]
        if self.streams and streams(loss):
            (last,) = head.classifiers.values()
            streamed: Tensor = streamed_loss(
                *(cls_maps, last.weight, last.bias, labels, loss, head.num_classes, divisor),
                logits_at_once=self.stream_logits,
            )
            return streamed
        logits, extra = head.classify(cls_maps), {}
        if isinstance(loss, QualityLoss):
            assert iou is not None
            quality = torch.zeros(labels.shape, device=labels.device)
            # A diverged box has a NaN IoU and a NaN box loss, which is how the step is detected.
            quality[found.matched.image, found.matched.prior] = iou.detach().nan_to_num(nan=0.0)
            extra = {"quality": quality}
        if not per_image:
            extra = {name: value.flatten() for name, value in extra.items()}
            whole: Tensor = loss(logits.flatten(0, 1), labels.flatten(), divisor, **extra)
            return whole
        terms = [
            loss(logits[b], labels[b], z, **{name: v[b] for name, v in extra.items()})
            for b, z in enumerate(divisor)
        ]
        return torch.stack(terms).sum()
