"""The fused sum as an autograd function: the gradient is there when the forward pass ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hyperfocal.losses.kernels import cpu, cuda


@dataclass(frozen=True)
class Problem:
    """What is constant in a fused sum.

    Attributes:
        labels: ``(N,)`` int64.
        table: ``(3, K)`` float32: γ, weight of positives, weight of negatives.
        quality: ``(N,)`` float32, or None.
        background: greatest label there is.
        sums: whether absolute gradients are summed per category.
        first: category of the first column; labels elsewhere act as background here.
        gamma: γ where all categories have one and the host knows it: a faster power.
    """

    labels: Tensor
    table: Tensor
    quality: Tensor | None
    background: int
    sums: bool
    first: int = 0
    gamma: float | None = None


@dataclass(frozen=True)
class Solution:
    """What one pass over ``(N, K)`` logits gives.

    Attributes:
        loss: float32 scalar.
        grad: ``(N, K)`` of the logits' dtype, of the loss times ``unit``; None if not asked for.
        sums: ``(2, K)`` float32, absolute gradients of positives and negatives.
        bad_row: a row with an impossible label, -1 if there is none or nobody looked.
    """

    loss: Tensor
    grad: Tensor | None
    sums: Tensor
    bad_row: int


def solve(logits: Tensor, problem: Problem, with_grad: bool) -> Solution:
    """One pass over ``(N, K)`` logits with unit column stride, on their device."""
    arguments = (
        logits,
        problem.labels,
        problem.table,
        problem.quality,
        problem.first,
        problem.background,
        with_grad,
        problem.sums,
    )
    if logits.device.type == "cpu":
        return Solution(*cpu.sigmoid_sum(*arguments))
    return Solution(*cuda.sigmoid_sum(*arguments, gamma=problem.gamma))


def unit_of(logits: Tensor, table: Tensor) -> Tensor | None:
    """The power of two that a float16 gradient is kept multiplied by, None for other dtypes.

    Loss scaling comes with the gradient from above, after ours has been rounded: most of it would
    have been below 6e-8, float16's least number. The greatest weight is brought near 2^12 instead;
    a derivative is at most a few times its weight.
    """
    if logits.dtype != torch.float16:
        return None
    greatest = table[1:].max().clamp(min=2.0**-100)
    return torch.exp2(12 - torch.ceil(torch.log2(greatest)))


class FusedSum(torch.autograd.Function):
    """``(rows (N, K), Problem) -> (loss, sums, bad_row)``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, problem: Problem) -> tuple[Tensor, Tensor, int]:
        """One pass; without a gradient where none will be asked for."""
        unit = unit_of(rows, problem.table) if ctx.needs_input_grad[0] else None
        ctx.problem, ctx.unit = _times(problem, unit), unit
        solution = solve(rows, ctx.problem, with_grad=ctx.needs_input_grad[0])
        ctx.grad = solution.grad
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
            grad = solve(rows.detach(), ctx.problem, with_grad=True).grad
        if torch.is_grad_enabled():
            return _OnlyOnce.apply(rows, grad_loss, grad, ctx.unit), None
        return _scaled(grad, grad_loss, ctx.unit), None


class _OnlyOnce(torch.autograd.Function):
    """The gradient, for a caller that may differentiate it again, which it can't be."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, grad_loss: Tensor, grad: Tensor, unit: Tensor | None
    ) -> Tensor:
        return _scaled(grad, grad_loss, unit)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "the fused loss can't be differentiated twice: pass backend='plain' to the loss"
        )


def _times(problem: Problem, unit: Tensor | None) -> Problem:
    if unit is None:
        return problem
    table = problem.table.clone()
    table[1:] *= unit
    return replace(problem, table=table)


def _scaled(grad: Tensor, factor: Tensor, unit: Tensor | None) -> Tensor:
    if unit is not None:
        factor = factor / unit
    if grad.device.type == "cpu":
        return grad if factor.item() == 1 else grad.mul_(factor)
    return cuda.scale_in_place(grad, factor)
