"""FCOS's assignment: each location is assigned to the smallest object that contains it.

(Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, section 3; centre
sampling is from the authors' later code.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from hyperfocal.assign.roles import Assigner, AssignerConfig
from hyperfocal.types import Assignment, Priors, Target

RangeLimits = Literal["closed", "open", "half_open"]
"""Whether a level's range of ``m = max(l, t, r, b)``, from 4 to 8 strides, includes its limits.

``closed``: ``[4s, 8s]``, as in the authors' code and mmdetection; locations at the same position on
two levels are both positive if m is exactly the limit between them. ``open``: ``(4s, 8s)``, as in
torchvision and Detectron2; neither is positive. ``half_open``: ``(4s, 8s]``; only that of the finer
level is positive.
"""


def assign_fcos(
    priors: Priors,
    target: Target,
    num_classes: int,
    radius: float | None = 1.5,
    range_strides: float = 8.0,
    range_limits: RangeLimits = "closed",
) -> tuple[Tensor, Tensor]:
    """Assign the locations of one image.

    With l, t, r, b the distances of a location to the sides of a box, the location is a candidate
    of the box if all four are positive, if it is less than ``radius`` strides from the box's centre
    in x and in y, and if ``m = max(l, t, r, b)`` is in its level's range: up to 8s on the first
    level, from 4s on the last, and from 4s to 8s otherwise (for strides 8 to 128 the limits are 64,
    128, 256 and 512 pixels; see `RangeLimits` for whether they are included). Of several boxes the
    one with the smallest area is chosen; ties go to the first.

    Args:
        priors: their centres are the locations.
        target: the image's boxes.
        num_classes: K, the background's label.
        radius: radius of centre sampling in strides; None: anywhere in the box.
        range_strides: upper limit of a level's range in strides; the lower limit is half of it.
        range_limits: see `RangeLimits`.

    Returns:
        Labels ``(A,)`` int64 and the row of the target that each positive is assigned to, ``(A,)``
        int64, 0 elsewhere.
    """
    count = len(priors.boxes)
    background = torch.full((count,), num_classes, device=priors.boxes.device)
    if not target.labels.numel():
        return background, torch.zeros_like(background)
    centers, boxes, stride = priors.centers[:, None], target.boxes, priors.strides[:, None]
    distances = torch.cat((centers - boxes[:, :2], boxes[:, 2:] - centers), dim=-1)
    inside = distances.amin(dim=-1) > 0
    if radius is not None:
        box_centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside &= (centers - box_centers).abs().amax(dim=-1) < radius * stride
    upper, lower = range_strides * stride, range_strides * stride / 2
    lower[: priors.level_sizes[0]] = -math.inf
    upper[count - priors.level_sizes[-1] :] = math.inf
    reach = distances.amax(dim=-1)
    inside &= (reach >= lower) if range_limits == "closed" else (reach > lower)
    inside &= (reach < upper) if range_limits == "open" else (reach <= upper)
    size = boxes[:, 2:] - boxes[:, :2]
    area = (size[:, 0] * size[:, 1]).where(inside, math.inf)
    least, gt_index = area.min(dim=1)
    positive = least < math.inf
    return torch.where(positive, target.labels[gt_index], background), gt_index * positive


class FCOSAssigner(Assigner):
    """`assign_fcos` for a batch.

    Args:
        num_classes: K, the background's label.
        radius, range_strides, range_limits: see `Config`.
    """

    centers_inside: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(AssignerConfig):
        """Settings of `FCOSAssigner`."""

        radius: float | None = 1.5
        """Radius of centre sampling: positives are less than this many strides from the object's
        centre; none: anywhere in the object."""
        range_strides: float = 8.0
        """A location is positive if the farthest side of its object is between half of this and
        this many strides away (no lower limit on the first level, no upper limit on the last)."""
        range_limits: RangeLimits = "closed"
        """Whether objects exactly at the limit between two levels are positive on both (closed: the
        authors, mmdetection), on neither (open: torchvision, Detectron2) or on the finer one
        (half_open)."""

        kind: ClassVar[str] = "fcos"

        def __post_init__(self) -> None:
            self._require(self.radius is None or self.radius > 0, "radius", "positive")
            self._require(self.range_strides > 0, "range_strides", "positive")

        def build(self, num_classes: int) -> FCOSAssigner:
            """The assigner for K categories."""
            return FCOSAssigner(num_classes, **self.arguments())

    def __init__(
        self,
        num_classes: int,
        radius: float | None = 1.5,
        range_strides: float = 8.0,
        range_limits: RangeLimits = "closed",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.radius = radius
        self.range_strides = range_strides
        self.range_limits: RangeLimits = range_limits

    @torch.no_grad()
    def forward(self, priors: Priors, targets: tuple[Target, ...]) -> Assignment:
        """Assign A priors to the boxes of each of B images."""
        pairs = [
            assign_fcos(
                priors,
                target,
                self.num_classes,
                self.radius,
                self.range_strides,
                self.range_limits,
            )
            for target in targets
        ]
        return Assignment(
            torch.stack([labels for labels, _ in pairs]),
            torch.stack([gt_index for _, gt_index in pairs]),
        )
