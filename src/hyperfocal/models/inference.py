"""From raw outputs to detections: select, decode, suppress, and go back to the original image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal import config
from hyperfocal.models.quality import QualityBranch
from hyperfocal.models.streamed_topk import Rank, TopPairs
from hyperfocal.models.voting import score_voting
from hyperfocal.ops import clip_boxes, has_area, nms, rescale_boxes, stable_topk
from hyperfocal.types import Batch, Detections, Priors

Decode = Callable[[Tensor, Tensor], Tensor]
"""Box outputs ``(N, 4)`` and their priors ``(N, 4)`` to xyxy boxes ``(N, 4)``."""


class Inference:
    """The paper's inference (focal-loss paper, section 4.1).

    Per level the ``pre_nms`` best (prior, category) pairs above ``score_threshold`` are decoded;
    the levels are merged, suppressed, and the ``max_detections`` best are kept. Ties go to the
    lower prior, then the lower category, so that a run repeats exactly. Boxes without area, such as
    those beside the image, are left out before suppression.

    Args:
        pre_nms: pairs per level.
        score_threshold: least score, exclusive.
        nms_iou: a box goes if it overlaps a better one by more.
        max_detections: boxes per image.
        class_wise: only boxes of one category suppress each other.
        voting: spread of `score_voting`; None: boxes don't vote.
    """

    @dataclass(frozen=True)
    class Config(config.Config):
        """Settings of `Inference`."""

        pre_nms: int = 1000
        """(Prior, category) pairs that each level keeps before suppression."""
        score_threshold: float = 0.05
        """Scores up to this are dropped; 0 keeps all."""
        nms_iou: float = 0.5
        """A box is dropped if it overlaps a better one by more than this IoU."""
        max_detections: int = 100
        """Detections per image."""
        class_wise: bool = True
        """Only boxes of the same category suppress each other."""

        kind: ClassVar[str] = "inference"

        def __post_init__(self) -> None:
            self._require(self.pre_nms >= 1, "pre_nms", "at least 1")
            self._require(0 <= self.score_threshold < 1, "score_threshold", "in [0, 1)")
            self._require(0 <= self.nms_iou <= 1, "nms_iou", "in [0, 1]")
            self._require(self.max_detections >= 1, "max_detections", "at least 1")

        def build(self, voting: float | None = None) -> Inference:
            """The inference."""
            return Inference(
                self.pre_nms,
                self.score_threshold,
                self.nms_iou,
                self.max_detections,
                self.class_wise,
                voting,
            )

    def __init__(
        self,
        pre_nms: int = 1000,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        class_wise: bool = True,
        voting: float | None = None,
    ) -> None:
        self.pre_nms = pre_nms
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.class_wise = class_wise
        self.voting = voting

    @property
    def least_logit(self) -> float:
        """The score threshold as a logit, so that only what is kept meets a sigmoid."""
        if self.score_threshold == 0:
            return -math.inf
        return math.log(self.score_threshold / (1 - self.score_threshold))

    def least_class_logit(self, branch: QualityBranch) -> float:
        """As `least_logit`, where the threshold isn't held against the score."""
        return self.least_logit if branch.threshold_on == "class" else -math.inf

    def rank(self, quality: Sequence[Tensor], branch: QualityBranch) -> Rank:
        """What is best by class and quality, -inf up to the score threshold.

        Args:
            quality: of each level, ``(B, HWA)`` logits of a quality branch.
            branch: the branch's settings.
        """
        on_score = branch.threshold_on == "score" and self.score_threshold > 0

        def ranks(level: int, image: int, logits: Tensor) -> Tensor:
            scores = branch.scores(logits, quality[level][image][:, None])
            return scores.where(scores > self.score_threshold, -math.inf) if on_score else scores

        return ranks

    def select(self, logits: Tensor) -> list[TopPairs]:
        """The best pairs of each image on one level, from logits ``(B, HWA, K)``."""
        chosen = []
        for flat in logits.flatten(1):
            candidates = (flat > self.least_logit).nonzero().squeeze(1)
            best = candidates[stable_topk(flat[candidates], self.pre_nms)]
            chosen.append(TopPairs(best, flat[best]))
        return chosen

    def __call__(
        self,
        levels: Sequence[Sequence[TopPairs]],
        num_classes: int,
        box: Tensor,
        priors: Priors,
        batch: Batch,
        decode: Decode,
        quality: Tensor | None = None,
        branch: QualityBranch | None = None,
    ) -> list[Detections]:
        """Detections of each image, in the pixels of the original image, best first.

        Args:
            levels: of each level and image, what `select` gave.
            num_classes: K.
            box: ``(B, A, 4)`` box outputs.
            priors: the A priors.
            batch: tells the images' sizes.
            decode: box outputs and priors to boxes.
            quality: ``(B, A)`` logits of a quality branch.
            branch: the branch's settings.
        """
        pairs = _join(levels, priors.level_sizes, num_classes)
        sizes = zip(batch.valid_hw.tolist(), batch.original_hw.tolist(), strict=True)
        found = []
        for b, (chosen, deltas, hw) in enumerate(zip(pairs, box, sizes, strict=True)):
            valid_hw, original_hw = hw
            prior = chosen.index // num_classes
            labels = chosen.index % num_classes
            if quality is None or branch is None:
                scores = chosen.logits.float().sigmoid()
            else:
                scores = branch.scores(chosen.logits, quality[b, prior])
            boxes = clip_boxes(decode(deltas[prior].float(), priors.boxes[prior]), valid_hw)
            # Boxes beside the image, or without width or height, are empty: they detect nothing.
            full = has_area(rescale_boxes(boxes, valid_hw, original_hw))
            boxes, scores, labels = boxes[full], scores[full], labels[full]
            groups = labels if self.class_wise else None
            kept = nms(boxes, scores, groups, self.nms_iou, self.max_detections)
            final = boxes[kept]
            if self.voting is not None:
                final = score_voting(final, labels[kept], boxes, scores, labels, self.voting)
            boxes = clip_boxes(rescale_boxes(final, valid_hw, original_hw), original_hw)
            full = has_area(boxes)  # a vote may have moved a box
            found.append(Detections(boxes[full], scores[kept][full], labels[kept][full]))
        return found


def _join(
    levels: Sequence[Sequence[TopPairs]], level_sizes: tuple[int, ...], num_classes: int
) -> list[TopPairs]:
    """Pairs of every level and image as pairs of each image, priors counted over all levels."""
    firsts = [sum(level_sizes[:i]) * num_classes for i in range(len(level_sizes))]
    return [
        TopPairs(
            torch.cat([p.index + first for p, first in zip(image, firsts, strict=True)]),
            torch.cat([p.logits for p in image]),
        )
        for image in zip(*levels, strict=True)
    ]
