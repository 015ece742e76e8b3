"""Posterior probabilities from the outputs of a model trained with focal loss.

Focal loss isn't a proper loss: where the true probability of a category is η, the expected loss is
minimal at some p closer to 1/2 (and, with alpha, shifted). Setting the derivative of the expected
loss to 0 gives the inverse map. With :

    φ(v) = (1 - v)^γ - γ (1 - v)^(γ-1) v log v,     h(v) = v / φ(v)

    sigmoid:  η = (h(p)/α) / (h(p)/α + h(1-p)/(1-α))        (no alpha: α = 1/2)
    softmax:  η_i = h(q_i) / Σ_j h(q_j)

The map is monotonic in p for each category, so it changes neither AP nor any ranking; use it where
the probability itself is needed: for thresholds chosen by cost, expected counts, or averaging the
scores of several models.

Source: Charoenphakdee et al. (CVPR 2021) show that focal loss isn't proper and give the map for
softmax without alpha; the binary form with alpha is derived in the same way.

The map only corrects the bias of the loss. An overfitted, over-confident network also needs
temperature scaling on held-out data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_range, check_scalar, per_category
from hyperfocal.losses._core.inputs import widest
from hyperfocal.types import DataError

_INSIDE = 1e-6
"""Minimum distance of alpha from 0 and 1, where the posterior is undefined."""


def posterior_from_focal(
    probabilities: Tensor, *, gamma: float = 2.0, alpha: Number | None = None
) -> Tensor:
    """Posterior of each category from the sigmoid of a focal-trained logit.

    Args:
        probabilities: ``(..., K)`` in [0, 1].
        gamma: the γ of the training loss.
        alpha: the α of the training loss, in (0, 1); a number or one value per category. None: the
            loss had no alpha.

    Returns:
        The shape and dtype of ``probabilities``.

    Raises:
        DataError: values outside [0, 1] (checked on the CPU).
        ConfigError: negative gamma, or alpha not inside (0, 1).

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import posterior_from_focal
        >>> posterior_from_focal(torch.tensor([0.3734, 0.5, 0.7498]), gamma=2.0)
        tensor([0.2000, 0.5000, 0.9500])
    """
    p = _checked(probabilities, gamma)
    alpha = 0.5 if alpha is None else per_category(alpha, "alpha", p, _INSIDE, 1 - _INSIDE)
    yes = p * _phi(1 - p, gamma) * (1 - alpha)
    no = (1 - p) * _phi(p, gamma) * alpha
    return (yes / (yes + no)).to(probabilities.dtype)


def posterior_from_softmax_focal(
    probabilities: Tensor, *, gamma: float = 2.0, dim: int = -1
) -> Tensor:
    """Posterior from the softmax of focal-trained logits (without alpha).

    Args:
        probabilities: softmax outputs, which sum to 1 along ``dim``.
        gamma: the γ of the training loss.
        dim: dimension of the categories.

    Returns:
        The shape and dtype of ``probabilities``; sums to 1 along ``dim``.

    Raises:
        DataError: values outside [0, 1] (checked on the CPU).
        ConfigError: negative gamma.
    """
    q = _checked(probabilities, gamma)
    h = q / _phi(q, gamma).clamp(min=torch.finfo(q.dtype).tiny)
    return (h / h.sum(dim, keepdim=True)).to(probabilities.dtype)


def _checked(probabilities: Tensor, gamma: float) -> Tensor:
    if not probabilities.is_floating_point():
        raise DataError(f"probabilities are {probabilities.dtype}, but they must be floats")
    check_range(probabilities, 0, 1, "probabilities")
    check_scalar(gamma, "gamma")
    is_half = probabilities.dtype in (torch.float16, torch.bfloat16)
    return widest(probabilities.float() if is_half else probabilities)


def _phi(v: Tensor, gamma: float) -> Tensor:
    rest = (1 - v).clamp(min=torch.finfo(v.dtype).tiny)
    return rest**gamma - gamma * rest ** (gamma - 1) * torch.xlogy(v, v)
