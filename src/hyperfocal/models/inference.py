"""From raw outputs to detections: select, decode, suppress, and go back to the original image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal import config
from hyperfocal.ops import clip_boxes, nms, rescale_boxes, stable_topk
from hyperfocal.types import Batch, Detections, HeadOutput, Priors

Decode = Callable[[Tensor, Tensor], Tensor]
"""Box outputs ``(N, 4)`` and their priors ``(N, 4)`` to xyxy boxes ``(N, 4)``."""


class Inference:
    """The paper's inference (focal-loss paper, section 4.1).

    Per level the ``pre_nms`` best (prior, category) pairs above ``score_threshold`` are decoded;
    the levels are merged, suppressed, and the ``max_detections`` best are kept. Ties go to the
    lower prior, then the lower category, so that a run repeats exactly.

    Args:
        pre_nms: pairs per level.
        score_threshold: least score, exclusive.
        nms_iou: a box goes if it overlaps a better one by more.
        max_detections: boxes per image.
        class_wise: only boxes of one category suppress each other.
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

        def build(self) -> Inference:
            """The inference."""
            return Inference(
                self.pre_nms,
                self.score_threshold,
                self.nms_iou,
                self.max_detections,
                self.class_wise,
            )

    def __init__(
        self,
        pre_nms: int = 1000,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        class_wise: bool = True,
    ) -> None:
        self.pre_nms = pre_nms
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.class_wise = class_wise

    def __call__(
        self, output: HeadOutput, priors: Priors, batch: Batch, decode: Decode
    ) -> list[Detections]:
        """Detections of each image, in the pixels of the original image, best first."""
        sizes = zip(batch.valid_hw.tolist(), batch.original_hw.tolist(), strict=True)
        return [
            self._one_image(cls, box, priors, valid, original, decode)
            for cls, box, (valid, original) in zip(output.cls, output.box, sizes, strict=True)
        ]

    def _one_image(
        self,
        cls: Tensor,
        box: Tensor,
        priors: Priors,
        valid_hw: tuple[int, int],
        original_hw: tuple[int, int],
        decode: Decode,
    ) -> Detections:
        num_classes = cls.shape[-1]
        chosen, start = [], 0
        for level in torch.split(cls, list(priors.level_sizes)):
            chosen.append(self.select(level.flatten()) + start * num_classes)
            start += len(level)
        pairs = torch.cat(chosen)
        prior = pairs // num_classes
        labels = pairs % num_classes
        scores = cls.flatten()[pairs].float().sigmoid()
        boxes = clip_boxes(decode(box[prior].float(), priors.boxes[prior]), valid_hw)
        groups = labels if self.class_wise else None
        kept = nms(boxes, scores, groups, self.nms_iou, self.max_detections)
        boxes = rescale_boxes(boxes[kept], valid_hw, original_hw)
        return Detections(clip_boxes(boxes, original_hw), scores[kept], labels[kept])

    def select(self, logits: Tensor) -> Tensor:
        """Indices of the best logits ``(N,)`` of a level, best first.

        The threshold is applied to the logits, so that only what is kept meets a sigmoid.
        """
        if self.score_threshold == 0:
            return stable_topk(logits, self.pre_nms)
        least = math.log(self.score_threshold / (1 - self.score_threshold))
        candidates = (logits > least).nonzero().squeeze(1)
        return candidates[stable_topk(logits[candidates], self.pre_nms)]
