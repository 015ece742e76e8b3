"""The positive priors of a batch with their assigned boxes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfocal.losses import BoxLoss
from hyperfocal.ops import BoxCoder, constant
from hyperfocal.types import Assignment, Priors, Target


class Where(NamedTuple):
    """Indices of P priors of a batch, computed once because this synchronises with the device.

    Attributes:
        image: ``(P,)`` int64, index in the batch, ascending.
        prior: ``(P,)`` int64, index of the prior, ascending within an image.
    """

    image: Tensor
    prior: Tensor


class Matched(NamedTuple):
    """The P positive priors of a batch, from which the box loss and IoU targets are computed.

    Attributes:
        image: ``(P,)`` int64, index in the batch.
        prior: ``(P,)`` int64, index of the prior.
        anchors: ``(P, 4)`` the priors' boxes.
        boxes: ``(P, 4)`` the boxes that they are assigned to.
        deltas: ``(P, 4)`` box outputs of the head.
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
    where: Where,
    deltas: Tensor,
) -> Matched:
    """Gather the positives.

    Args:
        priors: the A priors.
        assignment: the assignment of the batch.
        targets: the targets of the batch.
        where: the positives.
        deltas: ``(P, 4)`` box outputs of the positives.
    """
    image, prior = where
    counts = [len(target.labels) for target in targets]
    first = constant([0, *itertools.accumulate(counts[:-1])], image.device)
    row = first[image] + assignment.gt_index[image, prior]
    boxes = torch.cat([target.boxes for target in targets])[row]
    return Matched(image, prior, priors.boxes[prior], boxes, deltas)


def box_regression_loss(
    box_loss: BoxLoss,
    coder: BoxCoder,
    deltas: Tensor,
    anchors: Tensor,
    boxes: Tensor,
    *,
    weight: Tensor,
) -> Tensor:
    """Scalar: the weighted sum of the box loss, on boxes or encoded outputs as it declares.

    Args:
        box_loss: the loss.
        coder: box coding.
        deltas: ``(P, 4)`` box outputs.
        anchors: ``(P, 4)`` the boxes that they are relative to.
        boxes: ``(P, 4)`` ground truth.
        weight: ``(P,)``.
    """
    if box_loss.on_boxes:
        loss: Tensor = box_loss(coder.decode(deltas, anchors), boxes, weight=weight)
    else:
        loss = box_loss(deltas, coder.encode(boxes, anchors), weight=weight)
    return loss
