"""Fused kernels of the sigmoid losses, with one pass over the logits.

Cross entropy, focal, EFL, EQLv2 and quality focal loss are one function of the logit with three
settings per category: the power γ and the weights of positives and negatives. They share one
kernel, which in the forward pass reads the logits once, writes the gradient once, and sums the loss
and (for losses with memory) each category's absolute gradients. On the CPU it is C++, built on
first use (`cpu`); on CUDA it is Triton (`cuda`).

`serves` decides whether a call uses it. The plain PyTorch form in ``losses/`` is the definition and
handles everything else: other reductions, float targets, weights per row or logit, float64,
``torch.compile``, ``torch.func`` and second derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import (
    Number,
    check_choice,
    check_range,
    per_category,
    scalar_normalizer,
)
from hyperfocal.losses._core.inputs import Reduction, prepare
from hyperfocal.losses.kernels.function import DTYPES, FusedSum, Problem, has_kernel
from hyperfocal.types import ConfigError, DataError

Backend = Literal["auto", "plain", "fused"]
"""Implementation of a summed loss: "auto" uses the fused form where possible, "plain" never, and
"fused" raises where it isn't possible."""

SMALLEST = 1 << 15
"""With fewer logits "auto" uses the plain form: no speed-up, and the kernel needn't be built."""


def serves(
    backend: Backend,
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "sum",
    normalizer: Number | None = None,
    channel_dim: int = -1,
) -> bool:
    """Whether the fused form computes this call.

    Args:
        backend: the requested form.
        logits: ``(..., K)``, or with the categories at ``channel_dim``.
        targets: as for the losses; only integer labels are supported.
        weight: only None is supported.
        reduction: only "sum" is supported.
        normalizer: a constant.
        channel_dim: dimension of the categories.

    Raises:
        ConfigError: an unknown backend, or "fused" where the fused form doesn't apply.
    """
    check_choice(backend, "backend", Backend)
    # is_compiling is checked first, so that torch.compile doesn't trace the rest.
    if backend == "plain" or torch.compiler.is_compiling():
        return False
    reason = _obstacle(logits, targets, weight, reduction, normalizer, channel_dim)
    if backend == "fused":
        if reason is None and not has_kernel(logits.device):
            reason = f"a kernel for {logits.device.type!r}, which isn't available"
        if reason is not None:
            raise ConfigError(f"backend = 'fused' needs {reason}; use 'auto' or 'plain'")
        return True
    return reason is None and logits.numel() >= SMALLEST and has_kernel(logits.device)


@dataclass(frozen=True)
class Settings:
    """Settings of a loss of the focal family, for `fused_sum` and the streamed head.

    Attributes:
        gamma: the power, a number or one per category.
        own: factor of positives, a number or one per category.
        rest: factor of negatives, a number or one per category.
    """

    gamma: Number
    own: Number = 1.0
    rest: Number = 1.0

    def table(
        self,
        num_classes: int,
        device: torch.device,
        normalizer: Number | None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """``(3, K)``: γ, and both factors divided by the normalizer."""
        table = torch.empty((3, num_classes), device=device, dtype=dtype)
        for row, value in zip(table, (self.gamma, self.own, self.rest), strict=True):
            if isinstance(value, Tensor):
                row.copy_(value)
            else:
                row.fill_(value)
        if isinstance(normalizer, Tensor):
            normalizer = normalizer.detach().to(device)
        if normalizer is not None:
            table[1:] /= normalizer
        return table


def focal_settings(alpha: Number | None, gamma: Number, num_classes: int) -> Settings:
    """Checked settings of `sigmoid_focal_loss`; γ = 0 is cross entropy.

    Raises:
        ConfigError: alpha outside [0, 1], negative gamma, or a shape that doesn't fit.
    """
    like = torch.empty(num_classes)  # settings are float32 for logits of any dtype
    gamma = per_category(gamma, "gamma", like)
    if alpha is None:
        return Settings(gamma)
    alpha = per_category(alpha, "alpha", like, 0, 1)
    return Settings(gamma, alpha, 1 - alpha)


def fused_sum(
    logits: Tensor,
    labels: Tensor,
    settings: Settings,
    normalizer: Number | None = None,
    *,
    quality: Tensor | None = None,
    sums: bool = False,
    channel_dim: int = -1,
) -> tuple[Tensor, Tensor]:
    """Sum of a loss of the focal family over all logits, differentiable once.

    With p = σ(x), a logit whose category is its row's label adds ``own · (1-p)^γ · -log p``, or
    with a quality q ``own · |q-p|^γ · BCE(p, q)``; every other logit ``rest · p^γ · -log(1-p)``;
    rows labelled -1 add nothing.

    Args:
        logits: ``(..., K)`` float32, bfloat16 or float16, not empty. Copied unless contiguous (or a
            slice of the columns of a contiguous tensor).
        labels: integers of shape ``(...)``: ``0..K-1``, K background, -1 ignored.
        settings: γ and factors.
        normalizer: divides loss, gradient and sums.
        quality: floats in [0, 1] of the labels' shape, read where the label is a category.
        sums: also sum the absolute gradients.
        channel_dim: dimension of the categories.

    Returns:
        The loss, a float32 scalar, and ``(2, K)`` float32: per category the absolute gradient
        summed over its positives and over its negatives (zeros unless ``sums``).

    Raises:
        DataError: labels or qualities out of range (on the CPU).
    """
    logits = logits.movedim(channel_dim, -1)
    k = logits.shape[-1]
    if normalizer is not None:
        normalizer = scalar_normalizer(normalizer)
    if quality is not None:
        quality = _checked_quality(quality, labels, k)
    problem = Problem(
        labels=_row_labels(labels),
        table=settings.table(k, logits.device, normalizer),
        background=k,
        quality=quality,
        sums=sums,
        gamma=None if isinstance(settings.gamma, Tensor) else settings.gamma,
    )
    rows = logits.reshape(-1, k)
    if not torch.is_grad_enabled():  # an autograd function can't check this itself
        rows = rows.detach()
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    loss, totals, bad_row = FusedSum.apply(rows, problem)
    if bad_row >= 0:
        prepare(logits.detach(), labels)  # raises the error about the labels
    return loss, totals


def _row_labels(labels: Tensor) -> Tensor:
    """``(N,)`` int64; on a GPU int32 labels are kept, because its kernel reads both."""
    labels = labels.detach().reshape(-1)
    if labels.dtype != torch.int32 or labels.device.type == "cpu":
        labels = labels.long()
    return labels.contiguous()


def _checked_quality(quality: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """``(N,)`` float32, 1 where the label isn't a category."""
    if quality.shape != labels.shape:
        raise DataError(
            f"quality has shape {tuple(quality.shape)}, but the labels have {tuple(labels.shape)}"
        )
    is_category = (labels >= 0) & (labels < num_classes)
    quality = torch.where(is_category, quality.detach().float(), 1.0)
    check_range(quality, 0, 1, "quality")
    return quality.reshape(-1).contiguous()


def _obstacle(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    normalizer: Number | None,
    channel_dim: int,
) -> str | None:
    """The unmet requirement of the fused form; None if it can compute the call."""
    if reduction != "sum":
        return "reduction = 'sum'"
    if weight is not None:
        return "weight = None"
    if logits.dtype not in DTYPES or logits.ndim < 2 or logits.numel() == 0:
        return "float32, bfloat16 or float16 logits (..., K) that aren't empty"
    if not -logits.ndim <= channel_dim < logits.ndim:
        return "a valid channel_dim"
    rows = list(logits.shape)
    del rows[channel_dim]
    integer = not (targets.is_floating_point() or targets.dtype == torch.bool)
    if not integer or list(targets.shape) != rows or targets.device != logits.device:
        return "integer labels, one per row, on the logits' device"
    if isinstance(normalizer, Tensor) and normalizer.requires_grad:
        return "a normalizer that is a constant"
    if logits.device.type not in ("cpu", "cuda"):
        return "a CPU or CUDA device"
    if type(logits) not in (Tensor, torch.nn.Parameter) or _watched():
        return "ordinary tensors, outside torch.func and tracing"
    return None


def _watched() -> bool:
    """Whether operations are being traced or transformed, which doesn't work for the kernel's."""
    return (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )
