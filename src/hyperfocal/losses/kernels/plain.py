"""The computation of the kernels in PyTorch, for machines and dtypes without a kernel.

Used where the gradient is needed in the forward pass, as in the streamed head. The losses
themselves fall back to their own plain form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.losses._core.inputs import prepare
from hyperfocal.losses._core.one_vs_all import (
    label_index,
    one_vs_all,
    one_vs_all_soft,
    replace_at_label,
)
from hyperfocal.losses._core.terms import focal_term, soft_focal_term


def sigmoid_sum(
    logits: Tensor,
    labels: Tensor,
    table: Tensor,
    quality: Tensor | None,
    first: int,
    background: int,
    grad: Tensor | None,
    with_sums: bool,
) -> tuple[Tensor, Tensor, int]:
    """Write the gradient to ``grad``; return loss, sums ``(2, K)`` and -1 (labels aren't checked).

    The arguments are described in `hyperfocal.losses.kernels.function`.
    """
    cols = logits.shape[1]
    column = labels - first
    column = torch.where((column >= 0) & (column < cols), column, cols)
    column = torch.where(labels < 0, -1, column)
    with torch.enable_grad():
        x = logits.detach().requires_grad_()
        inputs = prepare(x, column)
        gamma, own, rest = table.to(inputs.logits.dtype)
        if quality is None:
            loss = one_vs_all(inputs, focal_term, gamma, own=own, rest=rest)
        else:
            loss = one_vs_all_soft(
                inputs,
                quality,
                lambda x, q, gamma, own, rest: own * soft_focal_term(x, q, gamma),
                lambda x, gamma, own, rest: rest * focal_term(-x, gamma),
                gamma,
                own,
                rest,
            )
        assert inputs.kept is not None
        loss = torch.where(inputs.kept, loss, 0.0).sum()
        (slope,) = torch.autograd.grad(loss, x)
    if grad is not None:
        grad.copy_(slope)
    sums = table.new_zeros((2, cols))
    if with_sums:
        size = slope.abs().to(table.dtype)
        index, is_category = label_index(column, cols)
        at_label = torch.where(is_category, size.gather(-1, index), 0.0)
        sums[0].index_add_(0, index.flatten(), at_label.flatten())
        sums[1] = replace_at_label(size, inputs, torch.zeros_like(at_label)).sum(0)
    return loss.detach(), sums, -1
