"""Priors, assignments, losses and detections of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -1
"""Label of a prior that is excluded from loss, gradient and counts."""


@dataclass(frozen=True)
class Priors:
    """Priors of a dense detector: anchors, or locations for anchor-free ones.

    Levels are ordered from fine to coarse; within a level the order is row, column, then anchor, so
    that a ``(B, H, W, A·K)`` convolution output reshapes to ``(B, H·W·A, K)``.

    Attributes:
        boxes: ``(A, 4)`` float32 xyxy pixels of the padded image.
        strides: ``(A,)`` float32, stride of each prior's level.
        level_sizes: number of priors per level; they sum to ``A``.
    """

    boxes: Tensor
    strides: Tensor
    level_sizes: tuple[int, ...]

    @property
    def centers(self) -> Tensor:
        """``(A, 2)`` xy pixels."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2


@dataclass(frozen=True)
class Assignment:
    """The ground truth that each prior of each image is assigned to.

    Attributes:
        labels: ``(B, A)`` int64: ``0..K-1`` category, ``K`` background, ``-1`` ignored.
        gt_index: ``(B, A)`` int64: row of the image's `Target`; meaningful where the label is a
            category, 0 elsewhere.
    """

    labels: Tensor
    gt_index: Tensor

    def positives(self, num_classes: int) -> Tensor:
        """``(B, A)`` bool, priors that are assigned to an object."""
        return (self.labels >= 0) & (self.labels < num_classes)


@dataclass(frozen=True)
class LossTerms:
    """The terms of one step's loss, each already normalised and weighted; they are summed.

    Attributes:
        terms: scalars by name: ``classification``, ``box``, and others that a detector has, such as
            ``quality`` (centerness, IoU branch).
        positives: scalar, number of positive priors in this process's batch (not part of the loss).

    Examples:
        >>> import torch
        >>> from hyperfocal.types import LossTerms
        >>> terms = LossTerms({"classification": torch.tensor(1.0), "box": torch.tensor(0.5)},
        ...                   positives=torch.tensor(3))
        >>> terms["box"], terms.total
        (tensor(0.5000), tensor(1.5000))
    """

    terms: Mapping[str, Tensor]
    positives: Tensor

    def __getitem__(self, name: str) -> Tensor:
        return self.terms[name]

    @property
    def total(self) -> Tensor:
        """The sum of the terms, to differentiate."""
        return torch.stack(list(self.terms.values())).sum()

    def named(self) -> dict[str, Tensor]:
        """The terms and their sum, ``loss``, by name, detached, for logging."""
        terms = {"loss": self.total, **self.terms}
        return {name: term.detach() for name, term in terms.items()}


@dataclass(frozen=True)
class Detections:
    """Detections in one image, best first.

    Attributes:
        boxes: ``(N, 4)`` float32 xyxy pixels of the original image.
        scores: ``(N,)`` float32 in [0, 1].
        labels: ``(N,)`` int64 in ``0..K-1``.
        xywh: ``(N, 4)`` float64 x, y, width, height in a results file, if `as_xywh` of ``boxes``
            differs in the last digits; else None.

    Examples:
        >>> import hyperfocal, torch
        >>> box = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
        >>> found = hyperfocal.Detections(box, torch.tensor([0.9]), torch.tensor([0]))
        >>> len(found)
        1
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    xywh: Tensor | None = None

    def __len__(self) -> int:
        return int(self.scores.shape[0])

    def to(self, device: torch.device | str) -> Detections:
        """All tensors on ``device``."""
        xywh = None if self.xywh is None else self.xywh.to(device)
        return Detections(
            self.boxes.to(device), self.scores.to(device), self.labels.to(device), xywh
        )
