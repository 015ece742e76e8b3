"""The fused sum on CUDA, in Triton (which PyTorch's CUDA builds bring along).

Tested through Triton's interpreter, and on an H200; its speed isn't measured yet. Before the first
use on a machine a small problem is solved and compared with the plain form, which serves from then
on if it differs.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings

import torch
from torch import Tensor

from hyperfocal.losses.kernels import plain
from hyperfocal.losses.terms import soft_error
from hyperfocal.types import HyperfocalWarning

ROWS_PER_PROGRAM_STEP = 2048
"""Logits that a program works on at once; divided by its columns this gives its rows."""
PROGRAMS = 2048


def available() -> bool:
    """Whether the kernel runs here and is right; warns once where it isn't."""
    found = torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
    return found and _self_test()


def sigmoid_sum(
    logits: Tensor,
    labels: Tensor,
    table: Tensor,
    quality: Tensor | None,
    first: int,
    background: int,
    grad: Tensor | None,
    with_sums: bool,
    gamma: float | None = None,
) -> tuple[Tensor, Tensor, int]:
    """One pass: the gradient into ``grad``; loss, sums ``(2, K)``, -1: nobody looked at the labels.

    `hyperfocal.losses.kernels.function` says what the arguments are. A label above
    ``background`` acts as background and one below -1 as ignored.
    """
    from hyperfocal.losses.kernels.sigmoid_triton import sigmoid_sum_kernel

    rows, cols = logits.shape
    block_cols = _block_cols(cols)
    block_rows = ROWS_PER_PROGRAM_STEP // block_cols
    column_blocks = -(-cols // block_cols)
    programs = max(1, min(-(-rows // block_rows), PROGRAMS // column_blocks))
    losses = table.new_empty((programs, cols))
    sums = table.new_empty((programs, 2, cols)) if with_sums else table.new_zeros((1, 2, cols))
    sigmoid_sum_kernel[(column_blocks, programs)](
        logits,
        labels,
        table,
        table if quality is None else quality,
        table if quality is None else _own_errors(logits, labels, quality, first),
        logits if grad is None else grad,
        losses,
        sums,
        rows,
        cols,
        logits.stride(0),
        first,
        POWER={0.0: 0, 2.0: 2}.get(-1.0 if gamma is None else gamma, -1),
        WITH_QUALITY=quality is not None,
        WITH_GRAD=grad is not None,
        WITH_SUMS=with_sums,
        ROWS=block_rows,
        COLS=block_cols,
    )
    return losses.sum(dtype=torch.float64).float(), sums.sum(0), -1


def _own_errors(logits: Tensor, labels: Tensor, quality: Tensor, first: int) -> Tensor:
    """``(N,)``: probability of each row's own category minus its quality, which may cancel.

    It takes float64 to keep the digits; one number a row is cheap. Rows without a category here
    have some number that the kernel doesn't use.
    """
    own = (labels - first).clamp(0, logits.shape[1] - 1)[:, None]
    return soft_error(logits.gather(1, own)[:, 0].float(), quality)


def scale_in_place(grad: Tensor, factor: Tensor) -> Tensor:
    """``grad *= factor`` without reading the factor on the host; nothing moves where it is 1."""
    from hyperfocal.losses.kernels.sigmoid_triton import scale_kernel

    block = 4096
    scale_kernel[(-(-grad.numel() // block),)](grad, factor, grad.numel(), BLOCK=block)
    return grad


def _block_cols(cols: int) -> int:
    """The widest power of two, 16 to 128, that leaves at most a tenth of its lanes idle."""
    for width in (128, 64, 32):
        if -(-cols // width) * width <= 1.1 * cols:
            return width
    return 16


@functools.cache
def _self_test() -> bool:
    x = torch.linspace(-20, 20, 100 * 7, device="cuda").reshape(100, 7)
    labels = torch.arange(100, device="cuda") % 9 - 1
    table = x.new_tensor([[1.5], [0.25], [0.75]]).expand(3, 7).contiguous()
    mine, plains = torch.empty_like(x), torch.empty_like(x)
    settings = (labels, table, None, 0, 7)
    try:
        loss, sums, _ = sigmoid_sum(x, *settings, mine, True)
        wanted_loss, wanted_sums, _ = plain.sigmoid_sum(x, *settings, plains, True)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(mine, plains, rtol=1e-5, atol=1e-30)
        torch.testing.assert_close(sums, wanted_sums, rtol=1e-5, atol=0)
    except Exception as error:  # the compiler, the driver, the numbers: all mean "not here"
        warnings.warn(
            f"no fused CUDA losses ({type(error).__name__}: {str(error)[:300]}); the plain PyTorch "
            "form computes the same numbers, slower",
            HyperfocalWarning,
            stacklevel=2,
        )
        return False
    return True
