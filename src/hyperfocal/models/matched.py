"""The positive priors of a batch beside the boxes that they answer for, and their box loss."""

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
    """P priors of a batch; finding them waits for the device, so they are found once.

    Attributes:
        image: ``(P,)`` int64, index in the batch, rising.
        prior: ``(P,)`` int64, index of the prior, rising within an image.
    """

    image: Tensor
    prior: Tensor


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
    where: Where,
    deltas: Tensor,
) -> Matched:
    """Gather the positives.

    Args:
        priors: the A priors.
        assignment: of every image.
        targets: of every image.
        where: the positives.
        deltas: ``(P, 4)`` their box outputs.
    """
    image, prior = where
    counts = [len(target.labels) for target in targets]
    first = constant([0, *itertools.accumulate(counts[:-1])], image.device)
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
