"""What all processes do together because one of them has seen a reason."""

from __future__ import annotations

from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor


class Verdict(NamedTuple):
    """What any process saw in a step.

    Attributes:
        bad: a loss or the gradient isn't finite.
        stop: a signal asked for a stop.
        save: a checkpoint is due.
    """

    bad: bool = False
    stop: bool = False
    save: bool = False


def agree(fabric: Fabric, bad: Tensor | None, stop: bool, save: bool) -> Verdict:
    """The verdict of all processes, the same in each; collective, one small all-reduce.

    Args:
        fabric: of the training.
        bad: bool scalar on the device; None in a single process that doesn't wait for it.
        stop: whether this process was asked to stop.
        save: whether this process wants a checkpoint.
    """
    if fabric.world_size == 1:
        return Verdict(bad is not None and bool(bad), stop, save)
    assert bad is not None
    mine = torch.stack([bad.float(), *(bad.new_tensor(v).float() for v in (stop, save))])
    votes = fabric.all_reduce(mine, reduce_op="sum")
    return Verdict(*(v > 0 for v in votes.tolist()))  # type: ignore[union-attr]
