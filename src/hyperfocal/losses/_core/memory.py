"""What the losses with memory share: pending sums, and one step per optimizer step.

Such a loss is a `LossWithMemory`. It computes its statistics in closed form from the detached
logits of each forward pass and adds them to *pending* buffers, without reading a value back,
logging or talking to other processes. Once per optimizer step `step_losses` (or the loss's own
``step()``) sums the pending statistics over all processes, folds them into the state that the next
forward uses, and clears them. Pyramid levels, micro-batches and any other split of a step therefore
add up. ``eval()`` freezes the state, and the ``state_dict`` carries all of it, pending sums
included.

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
"""The gradient ratio, or the weight made of it, from which a category counts as balanced."""


def step_losses(module: nn.Module) -> None:
    """Call ``step()`` of every `LossWithMemory` inside ``module``, the module itself included.

    Each is called once, however often it occurs, and nothing else that has a ``step`` is (such as a
    detector, whose own ``step()`` calls this). Every process has to call it, once after each
    optimizer step.
    """
    for child in module.modules():
        if isinstance(child, LossWithMemory):
            child.step()


def own_buffers(module: nn.Module) -> list[str]:
    """Names of the buffers inside ``module`` that each process keeps for itself.

    They are those of its losses with memory: pending statistics differ, and the rest is made equal
    by `step_losses`. `DistributedDataParallel` would put those of process 0 in their place.
    """
    losses = [p for p, m in module.named_modules() if isinstance(m, LossWithMemory)]
    prefixes = tuple(f"{path}." if path else "" for path in losses)
    return [name for name, _ in module.named_buffers() if name.startswith(prefixes)]


def keep_pending(pending: Tensor, new: Tensor) -> None:
    """Add this call's statistics to a pending buffer, in place.

    Raises:
        ConfigError: the buffer was cast to a half precision, in which sums get lost.
    """
    if pending.dtype in (torch.float16, torch.bfloat16):
        raise ConfigError(
            f"the statistics of this loss are {pending.dtype}, in which sums get lost: "
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
    """State of the equalization losses: each category's positive over its negative gradient.

    A positive gradient is what a category's own positives pull with; a negative one is what
    everything else pushes with. Both are sums of absolute gradients over all steps and never decay.

    Attributes (buffers):
        pos_grad: ``(K,)`` accumulated positive gradient.
        neg_grad: ``(K,)`` accumulated negative gradient.
        ratio: ``(K,)`` pos_grad / (neg_grad + 1e-10), at most ``most``; used from the next
            forward on.
        pending_pos: ``(K,)`` this process's positive gradient since the last step.
        pending_neg: ``(K,)`` this process's negative gradient since the last step.
        pending_calls: forward passes since the last step; without any, a step changes nothing.

    With `normalized_memory` the gradients are those of a loss that was divided by this process's
    share of the positives, N / R over R processes (whose gradients are averaged), so they are
    averaged too: one process or several accumulate the same. The released code of Equalized Focal
    Loss adds them up, which makes both sums R times as large, and the ratio the same.

    Args:
        num_classes: K.
        start: the ratio of every category until the first step.
        most: upper bound of the ratio.
    """

    EPS: ClassVar[float] = 1e-10
    normalized_memory: ClassVar[bool] = True
    """Whether the normalizer enters the gradients."""
    plain: ClassVar[str] = "focal loss"
    """What it is where all gradients are balanced."""
    favours_positives: ClassVar[tuple[str, ...]] = ()
    """Settings that give the negatives a larger share of the gradient when they are lower."""
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
        """Whether the loss uses the ratios at all, with the settings that it has."""
        return True

    def balanced(self) -> Tensor:
        """``(K,)`` bool: categories that it treats as balanced, to a hundredth of the ratio."""
        return self.ratio >= BALANCED

    def statistics(self, num_classes: int) -> Settings | None:
        """Settings of the loss whose gradients are summed; None: of this loss."""
        return None

    def remember(self, positive: Tensor, negative: Tensor) -> None:
        """Keep one forward pass's ``(K,)`` sums of absolute gradients until the next step."""
        keep_pending(self.pending_pos, positive)
        keep_pending(self.pending_neg, negative)
        self.pending_calls.add_(1)

    @torch.no_grad()
    def step(self) -> None:
        """Fold the pending sums of all processes into the ratio; once per optimizer step."""
        positive, negative, calls = take_pending(
            self.pending_pos, self.pending_neg, self.pending_calls
        )
        share = world_size() if self.normalized_memory else 1
        self.pos_grad.add_(positive / share)
        self.neg_grad.add_(negative / share)
        ratio = (self.pos_grad / (self.neg_grad + self.EPS)).clamp(max=self.most)
        self.ratio.copy_(torch.where(calls > 0, ratio, self.ratio))


def ratio_loss(module: nn.Module) -> GradientRatioLoss | None:
    """The loss inside ``module`` that keeps gradient ratios; None where none does."""
    return next((m for m in module.modules() if isinstance(m, GradientRatioLoss)), None)


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
