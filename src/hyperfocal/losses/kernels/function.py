"""The fused sum as an autograd function: the gradient is there when the forward pass ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hyperfocal.losses.kernels import cpu, cuda, plain

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the kernels read."""


@dataclass(frozen=True)
class Problem:
    """What is constant in a fused sum over ``(N, K)`` logits.

    Attributes:
        labels: ``(N,)`` int64; int32 too on a GPU.
        table: ``(3, K)`` float32: γ, factor of positives, factor of negatives.
        quality: ``(N,)`` float32, or None.
        background: greatest label there is.
        sums: whether absolute gradients are summed per category.
        first: category of the first column; categories in other columns act as background.
        gamma: γ where all categories have one and the host knows it: a faster power.
    """

    labels: Tensor
    table: Tensor
    background: int
    quality: Tensor | None = None
    sums: bool = False
    first: int = 0
    gamma: float | None = None


@dataclass(frozen=True)
class Solution:
    """What one pass gives besides the gradient.

    Attributes:
        loss: float32 scalar.
        sums: ``(2, K)`` float32, absolute gradients of positives and of negatives.
        bad_row: a row with an impossible label, -1 if there is none or nobody looked.
    """

    loss: Tensor
    sums: Tensor
    bad_row: int


def has_kernel(device: torch.device) -> bool:
    """Whether there is a kernel for the device; builds and tests it on the first call."""
    return {"cpu": cpu.available, "cuda": cuda.available}.get(device.type, lambda: False)()


def solve(logits: Tensor, problem: Problem, grad: Tensor | None) -> Solution:
    """One pass over the logits, by the kernel of their device or, without one, the plain forms.

    Args:
        logits: ``(N, K)``, columns next to each other.
        problem: everything else.
        grad: ``(N, K)`` contiguous, where the gradient goes; it may be the logits themselves.
            None: no gradient.
    """
    arguments = (
        logits,
        problem.labels,
        problem.table,
        problem.quality,
        problem.first,
        problem.background,
        grad,
        problem.sums,
    )
    if logits.dtype not in DTYPES or not has_kernel(logits.device):
        return Solution(*plain.sigmoid_sum(logits, problem.labels.long(), *arguments[2:]))
    if logits.device.type == "cpu":
        return Solution(*cpu.sigmoid_sum(*arguments))
    return Solution(*cuda.sigmoid_sum(*arguments, gamma=problem.gamma))


def add_to_columns(rows: Tensor, values: Tensor) -> None:
    """``rows (N, K) += values (K,)`` in place, on CUDA where `has_kernel`."""
    cuda.add_to_columns(rows, values)


class FusedSum(torch.autograd.Function):
    """``(rows (N, K), Problem) -> (loss, sums, bad_row)``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, problem: Problem) -> tuple[Tensor, Tensor, int]:
        """One pass; without a gradient where none will be asked for."""
        needed = ctx.needs_input_grad[0]
        unit = unit_of(rows.dtype, problem.table) if needed else None
        ctx.problem, ctx.unit = replace(problem, table=in_units(problem.table, unit)), unit
        ctx.grad = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) if needed else None
        solution = solve(rows, ctx.problem, ctx.grad)
        # Kept for a second backward pass, and so that autograd notices changes in place.
        ctx.save_for_backward(rows)
        ctx.mark_non_differentiable(solution.sums)
        ctx.set_materialize_grads(False)
        if unit is None:
            return solution.loss, solution.sums, solution.bad_row
        return solution.loss / unit, solution.sums / unit, solution.bad_row

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, None]:
        """The gradient from the forward pass, scaled in place where that changes it."""
        (rows,) = ctx.saved_tensors
        if grad_loss is None:
            return None, None
        # Given away: what receives it may add to it in place. A second pass starts anew.
        grad, ctx.grad = ctx.grad, None
        if grad is None:
            grad = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
            solve(rows.detach(), ctx.problem, grad)
        if torch.is_grad_enabled():
            return OnlyOnce.apply(scaled(grad, grad_loss.detach(), ctx.unit), rows, grad_loss), None
        return scaled(grad, grad_loss, ctx.unit), None


class OnlyOnce(torch.autograd.Function):
    """``(value, *inputs) -> value``, for a caller that may differentiate it again: it can't be."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *inputs: Tensor) -> Tensor:
        """The value as it is."""
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        """Say what to do instead."""
        raise RuntimeError(
            "a fused loss can't be differentiated twice: pass backend='plain' to the loss"
        )


def unit_of(dtype: torch.dtype, table: Tensor) -> Tensor | None:
    """The power of two that float16 gradients are kept multiplied by, None for other dtypes.

    Loss scaling comes with the gradient from above, after ours has been rounded: most of it would
    have been below 6e-8, float16's least number. The greatest factor is brought near 2^12 instead;
    a derivative is at most a few times its factor.
    """
    if dtype != torch.float16:
        return None
    greatest = table[1:].max().clamp(min=2.0**-100)
    return torch.exp2(12 - torch.ceil(torch.log2(greatest)))


def in_units(table: Tensor, unit: Tensor | None) -> Tensor:
    """A table ``(..., 3, K)`` of the problem with loss, gradient and sums times ``unit``."""
    if unit is None:
        return table
    table = table.clone()
    table[..., 1:, :] *= unit
    return table


def scaled(grad: Tensor, factor: Tensor, unit: Tensor | None = None) -> Tensor:
    """``grad``, which is in units, times ``factor``; in place, and untouched where that is 1."""
    if unit is not None:
        factor = factor / unit
    if grad.device.type == "cpu":
        return grad if factor.item() == 1 else grad.mul_(factor)
    return cuda.scale_in_place(grad, factor)
