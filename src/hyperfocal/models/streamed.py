"""Streamed loss: last convolution and loss of a dense head for a few categories at a time.

That convolution has A·K outputs per location: with 1203 categories and 9 anchors an 800x1333 image
has 240 million logits, a gigabyte without any temporaries. But a sigmoid loss is a sum over
categories, so convolution, loss, gradient and backward convolution are computed for one run of
categories before the next, and only a run's logits are in memory. The arithmetic is that of an
ordinary forward and backward pass; the gradients are computed in the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from hyperfocal.losses._core.checks import Number, check_scalar, integer_labels
from hyperfocal.losses._core.memory import GradientRatioLoss
from hyperfocal.losses.kernels import Settings
from hyperfocal.losses.kernels.function import OnlyOnce, Problem, scaled, solve
from hyperfocal.losses.roles import LossWithMemory, StreamableLoss
from hyperfocal.models.streamed_parts import (
    Head,
    Pieces,
    Run,
    blocks,
    checked_head,
    pieces_for,
    prepared,
    runs,
)
from hyperfocal.types import ConfigError, DataError

DESCRIBED = frozenset(("forward", "settings", "statistics", "normalized_memory", "__call__"))
"""Attributes of a loss that must be defined by the same class."""


def streams(loss: nn.Module) -> TypeGuard[StreamableLoss]:
    """Whether a head may compute ``loss`` from its settings, without calling it.

    True for a `StreamableLoss` whose ``forward`` and settings are defined in the same class, if no
    subclass, instance attribute or hook changes any of `DESCRIBED`. Of losses with memory, only a
    `GradientRatioLoss` can receive its statistics in this way.
    """
    if not isinstance(loss, StreamableLoss) or DESCRIBED & vars(loss).keys():
        return False
    remembers = isinstance(loss, LossWithMemory)
    if remembers and not isinstance(loss, GradientRatioLoss):
        return False
    hooks = (loss._forward_hooks, loss._forward_pre_hooks)
    if any((*hooks, loss._backward_hooks, loss._backward_pre_hooks)):
        return False
    first = next(cls for cls in type(loss).__mro__ if DESCRIBED & vars(cls).keys())
    return {"forward", "settings"} <= vars(first).keys()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def streamed_loss(
    features: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    loss: StreamableLoss,
    num_classes: int,
    normalizer: Number = 1.0,
    logits_at_once: int | None = None,
) -> Tensor:
    """Summed classification loss of a dense head, without keeping all logits in memory.

    Up to rounding it is equal to joining ``conv2d(map, weight, bias)`` of all maps to logits
    ``(B, ΣHWA, K)`` and computing ``loss(logits, labels, normalizer)``: value, gradients of maps,
    weight and bias, and the statistics of a loss with memory. Differentiable once. Under autocast
    to bfloat16 the convolutions use bfloat16 and gradients are accumulated in float32; float16 is
    replaced by float32, because gradients before loss scaling underflow in float16.

    Args:
        features: input of the last convolution, one ``(B, C, H, W)`` map per level; fastest in
            channels_last memory.
        weight: ``(A·K, C, k, k)`` of the last convolution, k odd, stride 1, padded by k // 2.
            Channel a·K + j is that of anchor a and category j.
        bias: ``(A·K,)`` or None.
        labels: ``(B, ΣHWA)`` integers in the order of `Priors` (level, row, column, anchor):
            ``0..K-1``, K background, -1 ignored.
        loss: a loss that `streams`; in training mode, the statistics of one with memory are
            updated.
        num_classes: K.
        normalizer: divides the loss: a number, a scalar, or ``(B,)``, one divisor per image.
        logits_at_once: approximate number of logits in memory; None: chosen by device.

    Returns:
        Scalar, float32 or better.

    Raises:
        DataError: incompatible shapes, or (on the CPU) labels out of range.
        ConfigError: a normalizer that isn't positive or has another shape.
    """
    head = checked_head(features, weight, bias, num_classes)
    sizes = [f.shape[2] * f.shape[3] * head.anchors for f in features]
    if labels.is_floating_point() or labels.shape != (len(features[0]), sum(sizes)):
        raise DataError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}, but they must be integers "
            f"of shape {(len(features[0]), sum(sizes))}"
        )
    labels = integer_labels(labels, num_classes)
    divisors = _divisors(normalizer, len(labels), weight)
    settings = loss.settings(num_classes)
    memory = loss if isinstance(loss, GradientRatioLoss) and loss.training else None
    device, dtype = weight.device, divisors.dtype

    def tables(settings: Settings) -> Tensor:
        return torch.stack([settings.table(num_classes, device, z, dtype) for z in divisors])

    other = None if memory is None else memory.statistics(num_classes)
    plan = _Plan(
        head=head,
        labels=tuple(level.contiguous() for level in torch.split(labels, sizes, dim=1)),
        tables=tables(settings),
        other=None if other is None else tables(other),
        gamma=None if isinstance(settings.gamma, Tensor) else settings.gamma,
        sums=memory is not None,
        pieces=pieces_for(device, head.dtype, logits_at_once),
    )
    inputs = (weight, bias, *features)
    if not torch.is_grad_enabled():  # an autograd function can't check this itself
        inputs = tuple(None if t is None else t.detach() for t in inputs)
    total: Tensor
    total, sums = _StreamedLoss.apply(plan, *inputs)
    if memory is not None:
        if not memory.normalized_memory:
            sums = sums * divisors[:, None, None]
        memory.remember(*sums.sum(0))
    return total


def _divisors(normalizer: Number, batch: int, weight: Tensor) -> Tensor:
    """``(1,)`` or ``(B,)``, float32 or better."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    if not isinstance(normalizer, Tensor):
        check_scalar(normalizer, "normalizer")
        if normalizer == 0:
            raise ConfigError("normalizer = 0, but it must be positive")
        return torch.full((1,), normalizer, dtype=dtype, device=weight.device)
    if normalizer.numel() != 1 and normalizer.shape != (batch,):
        raise ConfigError(
            f"normalizer has shape {tuple(normalizer.shape)}, but it must be a scalar or ({batch},)"
        )
    return normalizer.detach().reshape(-1).to(device=weight.device, dtype=dtype)


@dataclass(frozen=True)
class _Plan:
    """The constant inputs.

    Attributes:
        head: the last convolution.
        labels: one ``(B, HWA)`` per level.
        tables: ``(1, 3, K)`` for all images, or ``(B, 3, K)``: γ and factors (see `Problem`).
        gamma: γ if it is the same for all categories.
        sums: whether absolute gradients are summed.
        other: tables of the loss whose gradients are summed; None: this loss.
        pieces: limits on what is in memory at a time.
    """

    head: Head
    labels: tuple[Tensor, ...]
    tables: Tensor
    gamma: float | None
    sums: bool
    other: Tensor | None
    pieces: Pieces


class _StreamedLoss(torch.autograd.Function):
    """``(plan, weight, bias, *features) -> (loss, sums (G, 2, K))``."""

    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, weight: Tensor, bias: Tensor | None, *features: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.plan, ctx.needed = plan, ctx.needs_input_grad[1:]
        loss, sums, ctx.grads = _stream(plan, features, ctx.needed)
        # Saved for a second backward pass, and so that autograd detects in-place changes.
        ctx.save_for_backward(weight, bias, *features)
        ctx.mark_non_differentiable(sums)
        ctx.set_materialize_grads(False)
        return loss, sums

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        if grad_loss is None:
            return (None,) * (1 + len(inputs))
        grads, ctx.grads = ctx.grads, None
        if grads is None:  # returned by an earlier backward pass
            grads = _stream(ctx.plan, inputs[2:], ctx.needed)[2]
        factor = grad_loss.detach()
        grads = [None if g is None else scaled(g, factor) for g in grads]
        if torch.is_grad_enabled():
            known = [t for t in (grad_loss, *inputs) if t is not None]
            grads = [None if g is None else OnlyOnce.apply(g, *known) for g in grads]
        return None, *grads


@torch.no_grad()
def _stream(
    plan: _Plan, features: Sequence[Tensor], needed: Sequence[bool]
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Loss, sums, and the gradients of weight, bias and features that are needed."""
    head = plan.head
    loss = plan.tables.new_zeros((), dtype=torch.float64)
    sums = torch.zeros_like(plan.tables[:, 1:])
    grads = _Gradients(head, features, needed)
    maps = [prepared(f, head) for f in features]
    for run in runs(maps, head, plan.pieces):
        tables = plan.tables[:, :, run.categories].contiguous()
        others = None if plan.other is None else plan.other[:, :, run.categories].contiguous()
        for level, feature in enumerate(maps):
            for block in blocks(feature, run, plan.pieces):
                logits = run.logits(feature[block])
                for rows, labels, table in _groups(run.rows(logits), plan, level, block):
                    problem = Problem(
                        labels=labels,
                        table=tables[table],
                        background=head.num_classes,
                        sums=plan.sums and others is None,
                        first=run.categories.start,
                        gamma=plan.gamma,
                    )
                    if others is not None:  # before the gradient overwrites the logits
                        other = replace(problem, table=others[table], sums=True, gamma=0.0)
                        sums[table, :, run.categories] += solve(rows, other, None).sums
                    solution = solve(rows, problem, rows if any(needed) else None)
                    loss += solution.loss
                    if problem.sums:
                        sums[table, :, run.categories] += solution.sums
                if any(needed):
                    grads.add(run, logits, level, feature, block)
    return loss.to(plan.tables.dtype), sums, grads.all()


def _groups(
    rows: Tensor, plan: _Plan, level: int, block: slice
) -> list[tuple[Tensor, Tensor, int]]:
    """Rows and labels with the same table, and its index: all rows, or those of each image."""
    labels = plan.labels[level][block]
    if len(plan.tables) == 1:
        return [(rows, labels.flatten(), 0)]
    images = range(block.start, block.stop)
    return list(zip(rows.chunk(len(labels)), labels, images, strict=True))


class _Gradients:
    """Gradients accumulated over runs, in float32 or better; None if not needed."""

    def __init__(self, head: Head, features: Sequence[Tensor], needed: Sequence[bool]) -> None:
        self.head = head
        self.dtypes = [head.weight.dtype, head.weight.dtype, *(f.dtype for f in features)]
        self.sums = [
            _zeros(t) if t is not None and wanted else None
            for t, wanted in zip((head.weight, head.bias, *features), needed, strict=True)
        ]

    def add(self, run: Run, grad_logits: Tensor, level: int, feature: Tensor, block: slice) -> None:
        """Backward pass of the run's convolution for a slice of the images of a level."""
        weight, bias, grad = self.sums[0], self.sums[1], self.sums[2 + level]
        needed = (grad is not None, weight is not None, bias is not None)
        of_feature, of_weight, of_bias = run.backward(grad_logits, feature[block], needed)
        if grad is not None and of_feature is not None:
            grad[block] += of_feature
        for total, new in ((weight, of_weight), (bias, of_bias)):
            if total is not None and new is not None:
                share = self.head.share(total, run.categories)
                share += new.view(share.shape)

    def all(self) -> list[Tensor | None]:
        """All gradients, in the dtypes of their tensors."""
        pairs = zip(self.sums, self.dtypes, strict=True)
        return [None if total is None else total.to(dtype) for total, dtype in pairs]


def _zeros(like: Tensor) -> Tensor:
    wide = torch.promote_types(like.dtype, torch.float32)
    if like.ndim == 4:
        return torch.zeros_like(like, dtype=wide, memory_format=torch.channels_last)
    return torch.zeros_like(like, dtype=wide)
