"""The positive priors of a batch beside the boxes that they answer for, and their box loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfocal.losses import BoxLoss
from hyperfocal.ops import BoxCoder
from hyperfocal.types import Assignment, Priors, Target


class Matched(NamedTuple):
    """The P positive priors of a batch: what the box loss and IoU targets are made from.

    Attributes:
        image: ``(P,)`` int64, index in the batch.
        prior: ``(P,)`` int64, index of the prior.
        anchors: ``(P, 4)`` the priors' boxes.
        boxes: ``(P, 4)`` the boxes that they answer for.
        deltas: ``(P, 4)`` what the head says.
    """

    image: Tensor
    prior: Tensor
    anchors: Tensor
    boxes: Tensor
    deltas: Tensor


def match(
    priors: Priors,
    assignment: Assignment,
    targets: Sequence[Target],
    positive: Tensor,
    deltas: Tensor,
) -> Matched:
    """Gather the positives.

    Args:
        priors: the A priors.
        assignment: of every image.
        targets: of every image.
        positive: ``(B, A)`` bool.
        deltas: ``(P, 4)`` box outputs in the order of ``positive.nonzero()``.
    """
    image, prior = positive.nonzero(as_tuple=True)
    counts = [len(target.labels) for target in targets]
    first = torch.tensor([0, *counts[:-1]], device=image.device).cumsum(0)
    row = first[image] + assignment.gt_index[image, prior]
    boxes = torch.cat([target.boxes for target in targets])[row]
    return Matched(image, prior, priors.boxes[prior], boxes, deltas)


def box_regression_loss(
    box_loss: BoxLoss, coder: BoxCoder, matched: Matched, weight: Tensor
) -> Tensor:
    """Scalar: the sum over positives of weight times the box loss.

    Args:
        box_loss: compares boxes where it declares ``on_boxes``, else the coder's outputs.
        coder: between boxes and outputs.
        matched: the P positives.
        weight: ``(P,)``, the normaliser in it.
    """
    if box_loss.on_boxes:
        pred, wanted = coder.decode(matched.deltas, matched.anchors), matched.boxes
    else:
        pred, wanted = matched.deltas, coder.encode(matched.boxes, matched.anchors)
    loss: Tensor = box_loss(pred, wanted, weight=weight)
    return loss
