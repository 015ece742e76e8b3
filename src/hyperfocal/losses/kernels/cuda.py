"""The fused sum on CUDA, in Triton (which PyTorch's CUDA builds bring along).

Before the first use on a machine a small problem is solved and compared with the plain form, which
serves from then on if it differs. `hyperfocal.losses.kernels.tiling` chooses how a problem is cut
up for the GPU. Speed: ``docs/results/gpu.md``.
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
"""Logits that a program of `scale_in_place` works on at once."""


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
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor, int]:
    """One pass: the gradient into ``grad``; loss, sums ``(2, K)``, -1: nobody looked at the labels.

    `hyperfocal.losses.kernels.function` says what the arguments are. A label above
    ``background`` acts as background and one below -1 as ignored. Logits whose rows don't follow
    each other in memory are copied. ``gamma`` is γ where all categories have one, ``tiling`` how
    the problem is cut up (None: as is best for this GPU).
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
    """``(N,)``: probability of each row's own category minus its quality, which may cancel.

    It takes float64 to keep the digits; one number a row is cheap. Rows without a category here
    have some number that the kernel doesn't use.
    """
    own = (labels.long() - first).clamp(0, logits.shape[1] - 1)[:, None]
    return soft_error(logits.gather(1, own)[:, 0].float(), quality)


def scale_in_place(grad: Tensor, factor: Tensor) -> Tensor:
    """``grad *= factor`` without reading the factor on the host; nothing moves where it is 1."""
    from hyperfocal.losses.kernels.sigmoid_triton import scale_kernel

    size = grad.numel()
    # A few programs that go on: where the factor is 1, starting the others would take the time.
    programs = max(1, min(-(-size // SCALED_AT_ONCE), 8 * _processors(grad.device)))
    scale_kernel[(programs,)](grad, factor, size, BLOCK=SCALED_AT_ONCE)
    return grad


def add_to_columns(rows: Tensor, values: Tensor, tiling: Tiling | None = None) -> None:
    """``rows (N, K) += values (K,)`` in place; the rows follow each other in memory."""
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
    """Multiprocessors of a GPU; one where Triton's interpreter runs on the CPU."""
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
    except Exception as error:  # the compiler, the driver, the numbers: all mean "not here"
        warnings.warn(
            f"no fused CUDA losses ({type(error).__name__}: {str(error)[:300]}); the plain PyTorch "
            "form computes the same numbers, slower",
            HyperfocalWarning,
            stacklevel=2,
        )
        return False
    return True
