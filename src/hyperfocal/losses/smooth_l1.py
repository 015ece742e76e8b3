"""Smooth L1 loss for box regression; beta = 0 is L1.

Formula, with d = pred - target:

    ½ d²/β   where |d| < β,     |d| - ½ β   elsewhere

Gradient with respect to the prediction: d/β, clamped to [-1, 1].

Source: Fast R-CNN (β = 1); the focal-loss paper says "standard smooth L1" and its released code has
β = 1/9 (0.11), summed over the four coordinates and divided by the number of positives.

Use it on encoded deltas (see `hyperfocal.ops.coders`), as in RetinaNet; torchvision and Detectron2
use β = 0 (L1). Where the boxes vary much in size or AP at high IoU matters, a loss on decoded boxes
(`giou_loss`) is the better start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_scalar
from hyperfocal.losses._core.inputs import Reduction, prepare_boxes, reduce
from hyperfocal.losses.roles import BoxLoss, BoxLossConfig


def smooth_l1_loss(
    pred: Tensor,
    target: Tensor,
    *,
    beta: float = 0.11,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
) -> Tensor:
    """Smooth L1 of every coordinate.

    Args:
        pred: ``(..., 4)`` (or any last dimension), usually encoded deltas.
        target: the same shape.
        beta: where the loss changes from quadratic to linear; 0 is L1.
        weight: extra factor, one per row or one per coordinate.
        reduction: "none", "sum" or "mean".
        normalizer: divides the result of "none" or "sum".

    Returns:
        The shape of ``pred`` for "none", else a scalar; float32, or float64 for float64 input.

    Raises:
        DataError: shapes that differ.
        ConfigError: negative beta, an unknown reduction or a bad normalizer.
    """
    check_scalar(beta, "beta")
    inputs = prepare_boxes(pred, target, weight)
    distance = (inputs.logits - inputs.targets).abs()
    if beta > 0:
        square = distance.clamp(max=beta).square() / (2 * beta)
        distance = square + (distance - beta).clamp(min=0)
    return reduce(distance, inputs, reduction, normalizer)


class SmoothL1Loss(BoxLoss):
    """`smooth_l1_loss` on encoded deltas, summed and divided by a normalizer.

    Args:
        beta: see `Config`.
    """

    on_boxes: ClassVar[bool] = False
    """Takes encoded deltas, not boxes."""

    @dataclass(frozen=True)
    class Config(BoxLossConfig):
        """Settings of `SmoothL1Loss`."""

        kind: ClassVar[str] = "smooth_l1"

        beta: float = 0.11
        """Where the loss changes from quadratic to linear; 0 is L1."""

        def __post_init__(self) -> None:
            self._require(self.beta >= 0, "beta", "at least 0")

        def build(self) -> SmoothL1Loss:
            """The loss."""
            return SmoothL1Loss(**self.arguments())

    def __init__(self, beta: float = 0.11) -> None:
        super().__init__()
        self.beta = beta

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        normalizer: Number = 1.0,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Scalar: the sum over ``(..., 4)`` deltas, times ``weight``, over ``normalizer``."""
        return smooth_l1_loss(
            pred, target, beta=self.beta, weight=weight, reduction="sum", normalizer=normalizer
        )
