"""One-dimensional mixtures of two normal distributions, fitted by EM to many samples at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Mixture(NamedTuple):
    """N fitted mixtures; component 0 starts at the smallest value, component 1 at the largest.

    Attributes:
        weights: ``(N, 2)``, each row sums to 1.
        means: ``(N, 2)``.
        variances: ``(N, 2)``.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def log_joint(self, values: Tensor) -> Tensor:
        """``log(weight · density)`` of each component, ``(N, M, 2)``, at values ``(N, M)``."""
        apart = values[..., None] - self.means[:, None]
        variance = self.variances[:, None]
        density = -0.5 * (apart.square() / variance + (2 * math.pi * variance).log())
        return self.weights[:, None].log() + density


def fit_mixtures(
    values: Tensor,
    valid: Tensor,
    iterations: int = 100,
    tolerance: float = 1e-3,
    least_variance: float = 1e-6,
) -> Mixture:
    """Fit one mixture per row by expectation maximisation in float64.

    It starts from weights 1/2, means at the smallest and the largest value, and variances 1. A row
    has converged when its mean log likelihood changes by less than ``tolerance``.

    Args:
        values: ``(N, M)``.
        valid: ``(N, M)`` bool, at least one per row; other values are ignored.
        iterations: maximum number of iterations.
        tolerance: see above.
        least_variance: added to all variances, so that a component of equal values stays finite.
    """
    x = values.double().where(valid, 0.0)
    inf = torch.full_like(x, math.inf)
    means = torch.stack((x.where(valid, inf).amin(1), x.where(valid, -inf).amax(1)), dim=1)
    mixture = Mixture(torch.full_like(means, 0.5), means, torch.ones_like(means))
    count = valid.sum(dim=1).double()
    before = torch.full_like(count, -math.inf)
    active = torch.ones_like(count, dtype=torch.bool)
    tiny = 10 * torch.finfo(x.dtype).eps
    for _ in range(iterations):
        joint = mixture.log_joint(x)
        total = joint.logsumexp(dim=-1)
        share = (joint - total[..., None]).exp() * valid[..., None]
        mass = share.sum(dim=1) + tiny
        new_means = (share * x[..., None]).sum(dim=1) / mass
        spread = (x[..., None] - new_means[:, None]).square()
        new = Mixture(
            mass / mass.sum(dim=1, keepdim=True),
            new_means,
            (share * spread).sum(dim=1) / mass + least_variance,
        )
        mixture = Mixture(*(b.where(active[:, None], a) for a, b in zip(mixture, new, strict=True)))
        likelihood = (total * valid).sum(dim=1) / count
        active = active & ((likelihood - before).abs() >= tolerance)
        before = likelihood
        if not bool(active.any()):
            break
    return mixture
