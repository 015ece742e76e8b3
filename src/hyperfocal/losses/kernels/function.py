"""The fused sum as an autograd function that computes the gradient in the forward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hyperfocal.losses.kernels import cpu, cuda, plain

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of the logits that the kernels support."""


@dataclass(frozen=True)
class Problem:
    """The constant inputs of a fused sum over ``(N, K)`` logits.

    Attributes:
        labels: ``(N,)`` int64; int32 too on a GPU.
        table: ``(3, K)`` float32: γ, factor of positives, factor of negatives.
        quality: ``(N,)`` float32, or None.
        background: largest label.
        sums: whether absolute gradients are summed per category.
        first: category of the first column; labels of other columns are treated as background.
        gamma: γ if it is one Python number for all categories, which allows a faster power.
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
    """The results of one pass besides the gradient.

    Attributes:
        loss: float32 scalar.
        sums: ``(2, K)`` float32, absolute gradients of positives and of negatives.
        bad_row: a row with a label out of range; -1 if there is none or labels aren't checked.
    """

    loss: Tensor
    sums: Tensor
    bad_row: int


def has_kernel(device: torch.device) -> bool:
    """Whether a kernel is available for the device; builds and tests it on the first call."""
    return {"cpu": cpu.available, "cuda": cuda.available}.get(device.type, lambda: False)()


def solve(logits: Tensor, problem: Problem, grad: Tensor | None) -> Solution:
    """One pass over the logits, with the kernel of their device or, without one, the plain form.

    Args:
        logits: ``(N, K)``, with contiguous columns.
        problem: the constant inputs.
        grad: ``(N, K)`` contiguous, overwritten with the gradient; may be the logits. None: no
            gradient.
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
        """One pass; the gradient is only computed if the logits require it."""
        needed = ctx.needs_input_grad[0]
        unit = unit_of(rows.dtype, problem.table) if needed else None
        ctx.problem, ctx.unit = replace(problem, table=in_units(problem.table, unit)), unit
        ctx.grad = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) if needed else None
        solution = solve(rows, ctx.problem, ctx.grad)
        # Saved for a second backward pass, and so that autograd detects in-place changes.
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
        # The receiver may modify the gradient in place, so a second backward pass recomputes it.
        grad, ctx.grad = ctx.grad, None
        if grad is None:
            grad = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
            solve(rows.detach(), ctx.problem, grad)
        if torch.is_grad_enabled():
            return OnlyOnce.apply(scaled(grad, grad_loss.detach(), ctx.unit), rows, grad_loss), None
        return scaled(grad, grad_loss, ctx.unit), None


class OnlyOnce(torch.autograd.Function):
    """``(value, *inputs) -> value``, which raises if it is differentiated a second time."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *inputs: Tensor) -> Tensor:
        """The value, unchanged."""
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        """Raise an error with the alternative."""
        raise RuntimeError(
            "a fused loss can't be differentiated twice: pass backend='plain' to the loss"
        )


def unit_of(dtype: torch.dtype, table: Tensor) -> Tensor | None:
    """The power of two that float16 gradients are scaled by; None for other dtypes.

    The gradient is computed in the forward pass, before loss scaling can apply, and most of it
    would be below 6e-8, the smallest float16 number. It is scaled so that the largest factor is
    near 2^12; a derivative is at most a few times its factor.
    """
    if dtype != torch.float16:
        return None
    greatest = table[1:].max().clamp(min=2.0**-100)
    return torch.exp2(12 - torch.ceil(torch.log2(greatest)))


def in_units(table: Tensor, unit: Tensor | None) -> Tensor:
    """The table ``(..., 3, K)`` that gives loss, gradient and sums times ``unit``."""
    if unit is None:
        return table
    table = table.clone()
    table[..., 1:, :] *= unit
    return table


def scaled(grad: Tensor, factor: Tensor, unit: Tensor | None = None) -> Tensor:
    """``grad`` times ``factor / unit`` in place; no memory access if that is 1."""
    if unit is not None:
        factor = factor / unit
    if grad.device.type == "cpu":
        return grad if factor.item() == 1 else grad.mul_(factor)
    return cuda.scale_in_place(grad, factor)
