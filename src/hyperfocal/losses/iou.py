"""Losses on decoded boxes: IoU and generalised IoU.

Formulas for a predicted and a true box, where hull is the smallest enclosing box:

    IoU loss     -log IoU,   1 - IoU   or   1 - IoU²
    GIoU loss    1 - IoU + (|hull| - |union|) / |hull|        in [0, 2]

Gradients come from autograd; at a perfect match, where the loss isn't differentiable, the one-sided
derivatives are averaged. The IoU loss has no gradient for disjoint boxes; the GIoU loss has.

Sources: UnitBox (Yu et al. 2016); Generalized IoU (Rezatofighi et al., CVPR 2019).

Use GIoU for anchor-free detectors and wherever AP at high IoU matters. The IoU loss needs boxes
that overlap from the start, as in FCOS, where every location lies inside its object.

Boxes are xyxy in pixels, without the "+1 pixel" of some older code. Predicted boxes with negative
width or height are treated as empty. As in torchvision, 1e-7 is added to areas, so scale normalized
boxes to pixels first: with sides of 0.001 the loss of a perfect match is 0.09.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_choice
from hyperfocal.losses._core.inputs import Reduction, prepare_boxes, reduce_rows
from hyperfocal.losses.roles import BoxLoss, BoxLossConfig

EPS = 1e-7
"""Added to areas before dividing by them."""
LEAST_IOU = 1e-6
"""Lower bound of the IoU in -log IoU."""

IoUForm = Literal["log", "linear", "squared"]


def iou_loss(
    pred: Tensor,
    target: Tensor,
    *,
    form: IoUForm = "log",
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
) -> Tensor:
    """IoU loss of pairs of boxes: ``-log IoU``, ``1 - IoU`` or ``1 - IoU²``.

    Args:
        pred: ``(..., 4)`` xyxy.
        target: ``(..., 4)`` xyxy, the same unit.
        form: "log" (IoU at least 1e-6), "linear" or "squared".
        weight: ``(...)``, extra factor per box.
        reduction: "none", "sum" or "mean".
        normalizer: divides the result of "none" or "sum".

    Returns:
        ``(...)`` for "none", else a scalar; float32, or float64 for float64 input.

    Raises:
        DataError: shapes that differ or aren't ``(..., 4)``.
        ConfigError: an unknown form or reduction, or a bad normalizer.
    """
    check_choice(form, "form", IoUForm)
    inputs = prepare_boxes(pred, target, weight, boxes=True)
    intersection, union = _overlap(inputs.logits, inputs.targets)
    iou = intersection / (union + EPS)
    if form == "log":
        loss = -iou.clamp(min=LEAST_IOU).log()
    else:
        loss = 1 - (iou if form == "linear" else iou.square())
    return reduce_rows(loss, inputs, reduction, normalizer)


def giou_loss(
    pred: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
) -> Tensor:
    """Generalised IoU loss of pairs of boxes, in [0, 2].

    Args:
        pred: ``(..., 4)`` xyxy.
        target: ``(..., 4)`` xyxy, the same unit.
        weight: ``(...)``, extra factor per box.
        reduction: "none", "sum" or "mean".
        normalizer: divides the result of "none" or "sum".

    Returns:
        ``(...)`` for "none", else a scalar; float32, or float64 for float64 input.

    Raises:
        DataError: shapes that differ or aren't ``(..., 4)``.
        ConfigError: an unknown reduction or a bad normalizer.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import giou_loss
        >>> a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
        >>> giou_loss(a, b)  # 1 - (0 - 1/3)
        tensor([1.3333])
    """
    inputs = prepare_boxes(pred, target, weight, boxes=True)
    a, b = inputs.logits, inputs.targets
    intersection, union = _overlap(a, b)
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    loss = 1 - intersection / (union + EPS) + (hull - union) / (hull + EPS)
    return reduce_rows(loss, inputs, reduction, normalizer)


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    return width * height


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union, ``(...)``."""
    intersection = _area(
        torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    )
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - intersection
    return intersection, union


class IoULoss(BoxLoss):
    """`iou_loss`, summed and divided by a normalizer.

    Args:
        form: see `Config`.
    """

    on_boxes: ClassVar[bool] = True
    """Takes decoded boxes, not deltas."""

    @dataclass(frozen=True)
    class Config(BoxLossConfig):
        """Settings of `IoULoss`."""

        kind: ClassVar[str] = "iou"

        form: IoUForm = "log"
        """-log IoU, 1 - IoU (linear), or 1 - IoU² (squared: YOLOX)."""

        def build(self) -> IoULoss:
            """The loss."""
            return IoULoss(**self.arguments())

    def __init__(self, form: IoUForm = "log") -> None:
        super().__init__()
        self.form = form

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        normalizer: Number = 1.0,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Scalar: the sum over ``(..., 4)`` xyxy boxes, times ``weight``, over ``normalizer``."""
        return iou_loss(
            pred, target, form=self.form, weight=weight, reduction="sum", normalizer=normalizer
        )


class GIoULoss(BoxLoss):
    """`giou_loss`, summed and divided by a normalizer."""

    on_boxes: ClassVar[bool] = True
    """Takes decoded boxes, not deltas."""

    @dataclass(frozen=True)
    class Config(BoxLossConfig):
        """Settings of `GIoULoss` (it has none)."""

        kind: ClassVar[str] = "giou"

        def build(self) -> GIoULoss:
            """The loss."""
            return GIoULoss()

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        normalizer: Number = 1.0,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Scalar: the sum over ``(..., 4)`` xyxy boxes, times ``weight``, over ``normalizer``."""
        return giou_loss(pred, target, weight=weight, reduction="sum", normalizer=normalizer)
