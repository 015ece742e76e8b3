"""Elementwise functions of the sigmoid losses, accurate at every logit.

With the logit x, the label y = ±1 and x_t = y·x, so that p_t = σ(x_t):

    cross_entropy_term   CE(x_t) = -log p_t
                         dCE/dx_t = p_t - 1
    focal_term           FL(x_t) = -(1 - p_t)^γ log p_t
                         dFL/dx_t = (1 - p_t)^γ (γ p_t log p_t + p_t - 1)
    soft_focal_term      focal loss for a soft label q instead of ±1

(focal-loss paper, appendix B, eq. 9-10.) Nothing is computed from a rounded p: log p_t is
-softplus(-x_t), and 1 - p_t is σ(-x_t). Both terms of the focal derivative have the same sign, so
there is no cancellation, and the relative error is a few units in the last place for any logit.
With a soft label, p - q does cancel where p is near q; it is computed in float64. The derivatives
are explicit rather than left to autograd because the derivative of a power has a pole at 0 for
γ < 1, and exp(-γ·softplus(x_t)), which has none, loses precision in proportion to γ·x_t. Second
derivatives are those of the explicit derivative, by autograd (with γ < 1 they are NaN where 1 - p_t
underflows).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfocal.losses._core.checks import Number
from hyperfocal.losses._core.inputs import widest


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), accurate in float64 too (PyTorch's default is linear above x = 20)."""
    return F.softplus(x, threshold=40.0)


def cross_entropy_term(x_t: Tensor) -> Tensor:
    """-log σ(x_t), elementwise."""
    return _CrossEntropyTerm.apply(x_t)  # type: ignore[no-any-return]


def focal_term(x_t: Tensor, gamma: Number) -> Tensor:
    """-(1 - p_t)^γ log p_t, elementwise; ``gamma`` broadcasts and is a constant."""
    return _FocalTerm.apply(x_t, gamma)  # type: ignore[no-any-return]


def cross_entropy_slope(x_t: Tensor) -> Tensor:
    """|dCE/dx_t| = 1 - p_t, elementwise."""
    return torch.sigmoid(-x_t)


def focal_slope(x_t: Tensor, gamma: Number) -> Tensor:
    """|dFL/dx_t| = (1 - p_t)^γ (1 - p_t - γ p_t log p_t), elementwise."""
    wrong = torch.sigmoid(-x_t)
    return wrong.pow(gamma) * (wrong + gamma * torch.sigmoid(x_t) * softplus(-x_t))


def soft_focal_term(x: Tensor, q: Tensor, gamma: Number) -> Tensor:
    """|q - p|^γ (-q log p - (1 - q) log(1 - p)), elementwise; ``q`` and ``gamma`` are constants."""
    return _SoftFocalTerm.apply(x, q, gamma)  # type: ignore[no-any-return]


def soft_focal_derivative(x: Tensor, q: Tensor, gamma: Number) -> Tensor:
    """Derivative of `soft_focal_term` with respect to x."""
    p, wrong, error = torch.sigmoid(x), torch.sigmoid(-x), soft_error(x, q)
    size = error.abs()
    # For γ < 1 there is a cusp at p = q; the derivative there is taken as 0.
    tiny = torch.finfo(size.dtype).tiny
    steepness = gamma * p * wrong * _soft_cross_entropy(x, q) / size.clamp(min=tiny)
    return size.pow(gamma) * error.sign() * (size + steepness)


def soft_error(x: Tensor, q: Tensor) -> Tensor:
    """The error p - q in full precision, also for p near q, 0 or 1."""
    x, q, dtype = widest(x), widest(q), x.dtype
    return ((1 - q) * torch.sigmoid(x) - q * torch.sigmoid(-x)).to(dtype)


def _soft_cross_entropy(x: Tensor, q: Tensor) -> Tensor:
    return q * softplus(-x) + (1 - q) * softplus(x)


class _CrossEntropyTerm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x_t: Tensor) -> Tensor:
        return softplus(-x_t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x_t,) = ctx.saved_tensors
        return -grad * cross_entropy_slope(x_t)


class _FocalTerm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x_t: Tensor, gamma: Number) -> Tensor:
        return torch.sigmoid(-x_t).pow(gamma) * softplus(-x_t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Number], output: Tensor) -> None:
        x_t, gamma = inputs
        is_tensor = isinstance(gamma, Tensor)
        ctx.save_for_backward(x_t, *((gamma,) if is_tensor else ()))
        ctx.gamma = None if is_tensor else gamma

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x_t, *rest = ctx.saved_tensors
        return -grad * focal_slope(x_t, rest[0] if rest else ctx.gamma), None


class _SoftFocalTerm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, q: Tensor, gamma: Number) -> Tensor:
        return soft_error(x, q).abs().pow(gamma) * _soft_cross_entropy(x, q)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Number], output: Tensor) -> None:
        x, q, gamma = inputs
        is_tensor = isinstance(gamma, Tensor)
        ctx.save_for_backward(x, q, *((gamma,) if is_tensor else ()))
        ctx.gamma = None if is_tensor else gamma

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, q, *rest = ctx.saved_tensors
        return grad * soft_focal_derivative(x, q, rest[0] if rest else ctx.gamma), None, None
