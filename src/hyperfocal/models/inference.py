"""Detections from raw outputs: selection, decoding, suppression and rescaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from hyperfocal import config
from hyperfocal.models.quality import QualityBranch
from hyperfocal.models.streamed_topk import Rank, TopPairs
from hyperfocal.models.voting import score_voting
from hyperfocal.ops import clip_boxes, has_area, nms, rescale_boxes, stable_topk
from hyperfocal.types import Batch, Detections, Priors


class ImageSizes(NamedTuple):
    """Height and width of an image.

    Attributes:
        valid_hw: in the network's input, without padding.
        original_hw: of the image before any transform.
    """

    valid_hw: tuple[int, int]
    original_hw: tuple[int, int]


def image_sizes(batch: Batch) -> list[ImageSizes]:
    """The sizes of a batch's images."""
    pairs = zip(batch.valid_hw.tolist(), batch.original_hw.tolist(), strict=True)
    return [ImageSizes((a[0], a[1]), (b[0], b[1])) for a, b in pairs]


Decode = Callable[[Tensor, Tensor], Tensor]
"""Decodes box outputs ``(N, 4)`` with priors ``(N, 4)`` to xyxy boxes ``(N, 4)``."""


class Inference:
    """Inference as in the focal-loss paper, section 4.1.

    Per level the ``pre_nms`` best (prior, category) pairs above ``score_threshold`` are decoded;
    the levels are merged, NMS is applied, and the ``max_detections`` best are kept. Ties go to the
    lower prior, then the lower category, so that results are reproducible. Boxes without area, such
    as those outside the image, are dropped before NMS.

    Args:
        voting: spread of `score_voting`; None: no voting.
        pre_nms, score_threshold, nms_iou, max_detections, class_wise: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(config.Config):
        """Settings of `Inference`."""

        pre_nms: int = 1000
        """Maximum number of (prior, category) pairs per level before NMS."""
        score_threshold: float = 0.05
        """Detections with scores up to this are dropped; 0 keeps all."""
        nms_iou: float = 0.5
        """A box is dropped if its IoU with a better one is greater than this."""
        max_detections: int = 100
        """Maximum number of detections per image."""
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
            return Inference(**self.arguments(voting=voting))

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
        """The score threshold as a logit, so that the sigmoid is only applied to kept pairs."""
        if self.score_threshold == 0:
            return -math.inf
        return math.log(self.score_threshold / (1 - self.score_threshold))

    def least_class_logit(self, branch: QualityBranch) -> float:
        """`least_logit` if the threshold applies to the classification score, else -inf."""
        return self.least_logit if branch.threshold_on == "class" else -math.inf

    def rank(self, quality: Sequence[Tensor], branch: QualityBranch) -> Rank:
        """Ranking by class and quality; -inf up to the score threshold.

        Args:
            quality: ``(B, HWA)`` logits of a quality branch per level.
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
            levels: the results of `select` for each level and image.
            num_classes: K.
            box: ``(B, A, 4)`` box outputs.
            priors: the A priors.
            batch: the batch, for the sizes of its images.
            decode: decodes box outputs.
            quality: ``(B, A)`` logits of a quality branch.
            branch: the branch's settings.
        """
        pairs, found = _join(levels, priors.level_sizes, num_classes), []
        images = zip(pairs, box, image_sizes(batch), strict=True)
        for b, (chosen, deltas, sizes) in enumerate(images):
            prior = chosen.index // num_classes
            labels = chosen.index % num_classes
            if quality is None or branch is None:
                scores = chosen.logits.float().sigmoid()
            else:
                scores = branch.scores(chosen.logits, quality[b, prior])
            boxes = decode(deltas[prior].float(), priors.boxes[prior])
            found.append(self.suppress(boxes, scores, labels, sizes))
        return found

    def suppress(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, sizes: ImageSizes
    ) -> Detections:
        """Detections of one image from selected boxes: clipping, suppression and rescaling.

        Args:
            boxes: ``(N, 4)`` xyxy pixels of the network's input.
            scores: ``(N,)`` in [0, 1].
            labels: ``(N,)`` in ``0..K-1``.
            sizes: sizes of the image.
        """
        valid_hw, original_hw = sizes
        boxes = clip_boxes(boxes, valid_hw)
        # Boxes outside the image, or without width or height, are empty and are dropped.
        full = has_area(rescale_boxes(boxes, valid_hw, original_hw))
        boxes, scores, labels = boxes[full], scores[full], labels[full]
        groups = labels if self.class_wise else None
        kept = nms(boxes, scores, groups, self.nms_iou, self.max_detections)
        final = boxes[kept]
        if self.voting is not None:
            final = score_voting(final, labels[kept], boxes, scores, labels, self.voting)
        boxes = clip_boxes(rescale_boxes(final, valid_hw, original_hw), original_hw)
        full = has_area(boxes)  # voting may have changed a box
        return Detections(boxes[full], scores[kept][full], labels[kept][full])


def _join(
    levels: Sequence[Sequence[TopPairs]], level_sizes: tuple[int, ...], num_classes: int
) -> list[TopPairs]:
    """Join the pairs of all levels for each image; prior indices are over all levels."""
    firsts = [sum(level_sizes[:i]) * num_classes for i in range(len(level_sizes))]
    return [
        TopPairs(
            torch.cat([p.index + first for p, first in zip(image, firsts, strict=True)]),
            torch.cat([p.logits for p in image]),
        )
        for image in zip(*levels, strict=True)
    ]
