"""The fused sum on CUDA, in Triton (which PyTorch's CUDA builds include).

On first use in a process a small problem is compared with the plain form, which is used from then
on if the results differ. `hyperfocal.losses.kernels.tiling` chooses how a problem is split for the
GPU. Speed: ``docs/results/gpu.md``.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings

import torch
from torch import Tensor

from hyperfocal.losses._core.terms import soft_error
from hyperfocal.losses.kernels import plain
from hyperfocal.losses.kernels.tiling import Tiling, best_tiling
from hyperfocal.types import HyperfocalWarning

SCALED_AT_ONCE = 4096
"""Logits that a program of `scale_in_place` processes at once."""


def available() -> bool:
    """Whether the kernel runs on this machine and is correct; warns once if it isn't."""
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
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Write the gradient to ``grad``; return loss, sums ``(2, K)`` and -1 (labels aren't checked).

    The arguments are described in `hyperfocal.losses.kernels.function`. A label above
    ``background`` is treated as background and one below -1 as ignored. Logits that aren't
    contiguous are copied. ``gamma`` is γ if it is the same for all categories; ``tiling`` is how
    the problem is split (None: the best for this GPU).
    """
    from hyperfocal.losses.kernels.sigmoid_triton import sigmoid_sum_kernel

    logits = logits.contiguous()
    cols, size = logits.shape[1], logits.numel()
    power = {0.0: 0, 2.0: 2}.get(-1.0 if gamma is None else gamma, -1)
    if tiling is None:
        tiling = best_tiling(logits, power < 0, with_sums, sigmoid_sum)
    cut = tiling.cut(size, cols, _processors(logits.device))
    losses = table.new_empty(cut.programs)
    sums = table.new_empty((2, cut.step * cut.elements)) if with_sums else table
    sigmoid_sum_kernel[(cut.programs,)](
        logits,
        labels,
        table,
        table if quality is None else quality,
        table if quality is None else _own_errors(logits, labels, quality, first),
        logits if grad is None else grad,
        losses,
        sums,
        size,
        cols,
        size // cut.elements // cut.step,
        cut.step,
        cut.step * cut.elements // cols,
        first,
        background,
        POWER=power,
        WITH_QUALITY=quality is not None,
        WITH_GRAD=grad is not None,
        WITH_SUMS=with_sums,
        DIGITS=6 if logits.dtype == torch.float32 else 5 if power < 0 else 4,
        HARDWARE=logits.device.type == "cuda",
        ROWS=1 if cols % cut.elements == 0 else 2,
        V=cut.elements,
        CHUNKS=tiling.chunks,
        num_warps=tiling.warps,
        maxnreg=tiling.registers,
    )
    if with_sums:
        return losses.sum(), sums.view(2, -1, cols).sum(1), -1
    return losses.sum(), table.new_zeros((2, cols)), -1


def _own_errors(logits: Tensor, labels: Tensor, quality: Tensor, first: int) -> Tensor:
    """``(N,)``: probability of each row's category minus its quality.

    Computed in float64 because it may cancel. Rows without a category in these columns get an
    arbitrary number that the kernel doesn't use.
    """
    own = (labels.long() - first).clamp(0, logits.shape[1] - 1)[:, None]
    return soft_error(logits.gather(1, own)[:, 0].float(), quality)


def scale_in_place(grad: Tensor, factor: Tensor) -> Tensor:
    """``grad *= factor`` without reading the factor on the host; no memory access if it is 1."""
    from hyperfocal.losses.kernels.sigmoid_triton import scale_kernel

    size = grad.numel()
    # Few programs that loop: if the factor is 1, the time is that of launching programs.
    programs = max(1, min(-(-size // SCALED_AT_ONCE), 8 * _processors(grad.device)))
    scale_kernel[(programs,)](grad, factor, size, BLOCK=SCALED_AT_ONCE)
    return grad


def add_to_columns(rows: Tensor, values: Tensor, tiling: Tiling | None = None) -> None:
    """``rows (N, K) += values (K,)`` in place; the rows are contiguous."""
    from hyperfocal.losses.kernels.sigmoid_triton import add_to_columns_kernel

    assert rows.is_contiguous()
    tiling = tiling or Tiling(16 // rows.element_size(), 128, 4, 32)
    cut = tiling.cut(rows.numel(), rows.shape[1], _processors(rows.device))
    add_to_columns_kernel[(cut.programs,)](
        rows,
        values,
        rows.numel(),
        rows.shape[1],
        cut.step,
        V=cut.elements,
        CHUNKS=tiling.chunks,
        num_warps=tiling.warps,
    )


@functools.cache
def _processors(device: torch.device) -> int:
    """Number of multiprocessors of a GPU; 1 for Triton's interpreter on the CPU."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


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
    except Exception as error:  # compiler, driver or wrong results: unavailable
        warnings.warn(
            f"no fused CUDA losses ({type(error).__name__}: {str(error)[:300]}); the plain PyTorch "
            "form computes the same numbers, slower",
            HyperfocalWarning,
            stacklevel=2,
        )
        return False
    return True
