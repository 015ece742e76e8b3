"""Losses with memory: statistics that are updated once per optimizer step.

Such a loss is a `LossWithMemory`. It computes its statistics in closed form from the detached
logits of each forward pass and adds them to *pending* buffers, without synchronising with the
device, logging or communicating. Once per optimizer step `step_losses` (or the loss's own
``step()``) sums the pending statistics over all processes, adds them to the state that the next
forward pass uses, and clears them. The result is therefore the same however a step is split into
pyramid levels or micro-batches. ``eval()`` freezes the state, and the ``state_dict`` contains all
of it, including pending sums.

Pending sums differ between processes, so ``DistributedDataParallel`` must not broadcast them with
the other buffers: `own_buffers` names them for it. A loss must stay in float32: cast the network,
not the loss.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hyperfocal.losses.kernels import Settings
from hyperfocal.losses.roles import LossWithMemory
from hyperfocal.types import ConfigError

BALANCED = 0.99
"""A category with at least this gradient ratio, or weight computed from it, is balanced."""


def step_losses(module: nn.Module) -> None:
    """Call ``step()`` of every `LossWithMemory` inside ``module``, the module itself included.

    Each is called once even if it is registered repeatedly; other modules with a ``step`` (such as
    a detector, whose ``step()`` calls this) aren't. Call it in every process after each optimizer
    step.
    """
    for child in module.modules():
        if isinstance(child, LossWithMemory):
            child.step()


def own_buffers(module: nn.Module) -> list[str]:
    """Names of the buffers inside ``module`` that must not be broadcast.

    They are those of its losses with memory: pending statistics differ between processes, and
    `step_losses` makes the rest equal. `DistributedDataParallel` would overwrite them with those of
    process 0.
    """
    losses = [p for p, m in module.named_modules() if isinstance(m, LossWithMemory)]
    prefixes = tuple(f"{path}." if path else "" for path in losses)
    return [name for name, _ in module.named_buffers() if name.startswith(prefixes)]


def keep_pending(pending: Tensor, new: Tensor) -> None:
    """Add this call's statistics to a pending buffer, in place.

    Raises:
        ConfigError: the buffer was cast to half precision, in which small terms are lost.
    """
    if pending.dtype in (torch.float16, torch.bfloat16):
        raise ConfigError(
            f"the statistics of this loss are {pending.dtype}, in which small terms are lost: "
            "keep the loss in float32 (cast the network, not the loss)"
        )
    pending.add_(new.detach())


def take_pending(*pending: Tensor) -> list[Tensor]:
    """Pending buffers summed over all processes; the buffers are cleared."""
    sums = [buffer.clone() for buffer in pending]
    for buffer in pending:
        buffer.zero_()
    if dist.is_available() and dist.is_initialized():
        for total in sums:
            dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return sums


class GradientRatioLoss(LossWithMemory):
    """State of the equalization losses: ratio of positive to negative gradient per category.

    The positive gradient is summed over a category's positives, the negative gradient over all
    other logits of the category. Both are sums of absolute values over all steps, without decay.

    Attributes (buffers):
        pos_grad: ``(K,)`` accumulated positive gradient.
        neg_grad: ``(K,)`` accumulated negative gradient.
        ratio: ``(K,)`` pos_grad / (neg_grad + 1e-10), at most ``most``; used by the next forward
            pass.
        pending_pos: ``(K,)`` this process's positive gradient since the last step.
        pending_neg: ``(K,)`` this process's negative gradient since the last step.
        pending_calls: forward passes since the last step; if 0, a step changes nothing.

    With `normalized_memory` the gradients are those of a loss divided by N / R, for N positives and
    R processes (whose gradients are averaged), so they are averaged too: the state doesn't depend
    on the number of processes. The released code of Equalized Focal Loss sums them, which makes
    both sums R times as large, and the ratio the same.

    Args:
        num_classes: K.
        start: the ratio of every category before the first step.
        most: upper bound of the ratio.
    """

    EPS: ClassVar[float] = 1e-10
    normalized_memory: ClassVar[bool] = True
    """Whether the gradients include the normalizer."""
    plain: ClassVar[str] = "focal loss"
    """Name of the loss that it is equal to if all gradients are balanced."""
    favours_positives: ClassVar[tuple[str, ...]] = ()
    """Settings that, when lowered, increase the negatives' share of the gradient."""
    pos_grad: Tensor
    neg_grad: Tensor
    ratio: Tensor
    pending_pos: Tensor
    pending_neg: Tensor
    pending_calls: Tensor

    def __init__(self, num_classes: int, start: float, most: float = math.inf) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"num_classes = {num_classes}, but it must be at least 1")
        self.most = most
        for name in ("pos_grad", "neg_grad", "pending_pos", "pending_neg"):
            self.register_buffer(name, torch.zeros(num_classes))
        self.register_buffer("ratio", torch.full((num_classes,), start))
        self.register_buffer("pending_calls", torch.zeros((), dtype=torch.int64))

    @property
    def equalizes(self) -> bool:
        """Whether the loss depends on the ratios with its current settings."""
        return True

    def balanced(self) -> Tensor:
        """``(K,)`` bool: categories treated as balanced, to within 0.01 of the ratio."""
        return self.ratio >= BALANCED

    def statistics(self, num_classes: int) -> Settings | None:
        """Settings of the loss whose gradients are summed; None: this loss."""
        return None

    def remember(self, positive: Tensor, negative: Tensor) -> None:
        """Add one forward pass's ``(K,)`` sums of absolute gradients to the pending ones."""
        keep_pending(self.pending_pos, positive)
        keep_pending(self.pending_neg, negative)
        self.pending_calls.add_(1)

    @torch.no_grad()
    def step(self) -> None:
        """Update the ratio with the pending sums of all processes; once per optimizer step."""
        positive, negative, calls = take_pending(
            self.pending_pos, self.pending_neg, self.pending_calls
        )
        share = world_size() if self.normalized_memory else 1
        self.pos_grad.add_(positive / share)
        self.neg_grad.add_(negative / share)
        ratio = (self.pos_grad / (self.neg_grad + self.EPS)).clamp(max=self.most)
        self.ratio.copy_(torch.where(calls > 0, ratio, self.ratio))


def ratio_loss(module: nn.Module) -> GradientRatioLoss | None:
    """The loss inside ``module`` that keeps gradient ratios; None if there is none."""
    return next((m for m in module.modules() if isinstance(m, GradientRatioLoss)), None)


def world_size() -> int:
    """Number of processes of the distributed run; 1 otherwise."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
