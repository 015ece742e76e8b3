"""RetinaNet's assignment: each anchor is assigned to the object with the highest IoU.

With m(a) the highest IoU of anchor a with any box: m ≥ 0.5 is positive, m < 0.4 background, and
anchors in between are ignored (focal-loss paper, section 4). The paper doesn't specify whether an
object without a positive anchor gets its best one; see `LowQuality` for the variants in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hyperfocal.assign.roles import Assigner, AssignerConfig
from hyperfocal.ops import box_iou
from hyperfocal.types import IGNORED, Assignment, Priors, Target

OVERLAPS_AT_ONCE = 1 << 26
"""Pairs of box and anchor processed at once on a GPU: a few tensors of 256 MiB."""

LowQuality = Literal["off", "from_neg_threshold", "any", "mmdetection"]
"""Which anchors below the positive threshold become positive because they are a box's best, and
which box they are assigned to.

``off``: none, as in the paper. ``from_neg_threshold``: those with m(a) ≥ the negative threshold,
which would otherwise be ignored (Detectron). ``any``: all with an overlap (Detectron2,
torchvision). In these an anchor is assigned to the box with which *it* has the highest IoU, which
may differ from the box whose best anchor it is. ``mmdetection``: all with an overlap, as in
mmdetection with ``min_pos_iou=0``: a box's best anchors are assigned to that box, even if they are
positive for another one; an anchor that is the best of several boxes is assigned to the last of
them.
"""


def assign_max_iou(
    anchors: Tensor,
    target: Target,
    num_classes: int,
    positive: float = 0.5,
    negative: float = 0.4,
    low_quality: LowQuality = "from_neg_threshold",
) -> tuple[Tensor, Tensor]:
    """Assign the anchors of one image.

    A positive is assigned to the box with the highest IoU (ties go to the first), except as in
    `LowQuality`. All anchors that tie for the highest IoU with a box are its best ones. A box
    without overlapping anchors gets none (torchvision, Detectron2 and mmdetection assign it anchors
    that don't overlap it).

    Args:
        anchors: ``(A, 4)`` xyxy.
        target: the image's boxes, in the same frame.
        num_classes: K, the background's label.
        positive: minimum IoU of a positive.
        negative: IoU below which an anchor is background.
        low_quality: see `LowQuality`.

    Returns:
        Labels ``(A,)`` int64 (``0..K-1``, K background, -1 ignored) and the row of the target that
        each positive is assigned to, ``(A,)`` int64, 0 elsewhere.
    """
    if not target.labels.numel():
        background = torch.full((len(anchors),), num_classes, device=anchors.device)
        return background, torch.zeros_like(background)
    iou = box_iou(target.boxes, anchors)
    decided = _decide(iou[None], target.labels[None], num_classes, positive, negative, low_quality)
    return decided[0][0], decided[1][0]


def _decide(
    iou: Tensor,
    labels: Tensor,
    num_classes: int,
    positive: float,
    negative: float,
    low_quality: LowQuality,
) -> tuple[Tensor, Tensor]:
    """Labels and rows ``(B, A)`` from the IoU ``(B, N, A)`` with the boxes of B images.

    Padding boxes come last and overlap nothing.
    """
    best, gt_index = iou.max(dim=1)
    is_positive = best >= positive
    if low_quality != "off":
        peak = iou.amax(dim=2, keepdim=True)
        best_of = (iou == peak) & (peak > 0)
        is_best = best_of.any(dim=1)
        if low_quality == "from_neg_threshold":
            is_best &= best >= negative
        is_positive |= is_best
        if low_quality == "mmdetection":
            rows = torch.arange(iou.shape[1], device=iou.device)[:, None]
            last = rows.where(best_of, -1).amax(dim=1)
            gt_index = last.where(is_best, gt_index)
    unlike = torch.where(best < negative, num_classes, IGNORED)
    return torch.where(is_positive, labels.gather(1, gt_index), unlike), gt_index * is_positive


def assign_max_iou_batched(
    anchors: Tensor,
    targets: Sequence[Target],
    num_classes: int,
    positive: float = 0.5,
    negative: float = 0.4,
    low_quality: LowQuality = "from_neg_threshold",
) -> tuple[Tensor, Tensor]:
    """`assign_max_iou` for several images at once, ``(B, A)`` each.

    For a GPU, where launching thirty operations per image takes longer than running them.
    """
    boxes = pad_sequence([target.boxes for target in targets], batch_first=True)
    labels = pad_sequence([target.labels for target in targets], batch_first=True)
    images, most = labels.shape
    if most == 0:
        background = torch.full((images, len(anchors)), num_classes, device=anchors.device)
        return background, torch.zeros_like(background)
    at_once = max(1, OVERLAPS_AT_ONCE // (most * len(anchors)))
    found = []
    for first in range(0, images, at_once):
        some_boxes, some_labels = (x[first : first + at_once] for x in (boxes, labels))
        iou = box_iou(some_boxes.flatten(0, 1), anchors).view(*some_labels.shape, -1)
        found.append(_decide(iou, some_labels, num_classes, positive, negative, low_quality))
    label, gt_index = (torch.cat(parts) for parts in zip(*found, strict=True))
    for image, target in enumerate(targets):
        if not target.labels.numel():  # with negative = 0 no anchor would be background
            label[image] = num_classes
    return label, gt_index


class MaxIoUAssigner(Assigner):
    """`assign_max_iou` for a batch.

    Args:
        num_classes: K, the background's label.
        positive, negative, low_quality: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(AssignerConfig):
        """Settings of `MaxIoUAssigner`."""

        positive: float = 0.5
        """Minimum IoU with an object at which an anchor is positive."""
        negative: float = 0.4
        """An anchor with a lower IoU with all objects is background; those between are ignored."""
        low_quality: LowQuality = "from_neg_threshold"
        """Best anchor of each object: no special treatment (off), positive if its IoU is at least
        ``negative`` (from_neg_threshold) or above 0, assigned to the object with the highest IoU
        (any: torchvision, Detectron2) or to the one whose best anchor it is (mmdetection)."""

        kind: ClassVar[str] = "max_iou"

        def __post_init__(self) -> None:
            self._require(0 < self.positive <= 1, "positive", "in (0, 1]")
            self._require(
                0 <= self.negative <= self.positive,
                "negative",
                f"between 0 and positive ({self.positive})",
            )

        def build(self, num_classes: int) -> MaxIoUAssigner:
            """The assigner for K categories."""
            return MaxIoUAssigner(num_classes, **self.arguments())

    def __init__(
        self,
        num_classes: int,
        positive: float = 0.5,
        negative: float = 0.4,
        low_quality: LowQuality = "from_neg_threshold",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.positive = positive
        self.negative = negative
        self.low_quality: LowQuality = low_quality

    @torch.no_grad()
    def forward(self, priors: Priors, targets: tuple[Target, ...]) -> Assignment:
        """Assign A priors to the boxes of each of B images."""
        settings = self.num_classes, self.positive, self.negative, self.low_quality
        if priors.boxes.is_cuda:
            return Assignment(*assign_max_iou_batched(priors.boxes, targets, *settings))
        pairs = [assign_max_iou(priors.boxes, target, *settings) for target in targets]
        return Assignment(
            torch.stack([labels for labels, _ in pairs]),
            torch.stack([gt_index for _, gt_index in pairs]),
        )
