"""Posterior probabilities recovered from those of a focal-trained classifier."""

from __future__ import annotations

import pytest
import torch

from hyperfocal.losses import (
    posterior_from_focal,
    posterior_from_softmax_focal,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from hyperfocal.types import ConfigError, DataError


def bisect(slope) -> torch.Tensor:
    """The logit at which each element of a slope changes sign."""
    low, high = torch.full((2, 5), 40.0, dtype=torch.float64) * torch.tensor([[-1.0], [1.0]])
    for _ in range(80):
        middle = (low + high) / 2
        rising = slope(middle) > 0
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    return low


def minimiser(posterior: torch.Tensor, loss) -> torch.Tensor:
    """The logits at which the expected loss is least."""
    x = torch.zeros_like(posterior)
    optimizer = torch.optim.LBFGS(
        [x.requires_grad_()], max_iter=500, tolerance_grad=1e-13, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(closure)
    return x.detach()


@pytest.mark.parametrize("alpha", [None, 0.25, 0.7])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_it_inverts_the_minimiser_of_the_expected_loss(gamma, alpha):
    eta = torch.tensor([0.02, 0.2, 0.5, 0.8, 0.97], dtype=torch.float64)

    def slope(x: torch.Tensor) -> torch.Tensor:  # a float target gives the expected loss
        x = x.requires_grad_()
        loss = sigmoid_focal_loss(x, eta, alpha=alpha, gamma=gamma, reduction="none")
        return torch.autograd.grad(loss.sum(), x)[0]

    p = bisect(slope).sigmoid()
    torch.testing.assert_close(posterior_from_focal(p, gamma=gamma, alpha=alpha), eta)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_softmax_form_inverts_too(gamma):
    eta = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64)

    def expected(x: torch.Tensor) -> torch.Tensor:
        each = softmax_focal_loss(x.expand(4, 4), torch.arange(4), gamma=gamma)
        return (eta * each).sum()

    q = minimiser(eta, expected).softmax(-1)
    got = posterior_from_softmax_focal(q, gamma=gamma)
    torch.testing.assert_close(got, eta, atol=1e-5, rtol=0)


def test_golden_numbers():
    p = torch.tensor([0.7498, 0.3734], dtype=torch.float64)
    torch.testing.assert_close(
        posterior_from_focal(p, gamma=2), torch.tensor([0.95, 0.2]).double(), atol=1e-4, rtol=0
    )
    p = torch.tensor([0.3988], dtype=torch.float64)
    assert posterior_from_focal(p, gamma=2, alpha=0.25).item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_ends_stay_and_order_is_kept(gamma, dtype):
    p = torch.linspace(0, 1, 101).to(dtype)
    eta = posterior_from_focal(p, gamma=gamma, alpha=0.25)
    assert eta.dtype == dtype
    assert eta[0] == 0
    assert eta[-1] == 1
    assert (eta.diff() >= 0).all()
    certain = posterior_from_softmax_focal(torch.tensor([1.0, 0.0, 0.0]), gamma=gamma)
    torch.testing.assert_close(certain, torch.tensor([1.0, 0.0, 0.0]))


def test_bad_input():
    with pytest.raises(DataError, match=r"1\.5"):
        posterior_from_focal(torch.tensor([1.5]))
    with pytest.raises(DataError, match="int64"):
        posterior_from_focal(torch.tensor([1]))
    with pytest.raises(ConfigError, match="gamma"):
        posterior_from_focal(torch.tensor([0.5]), gamma=-1)
    with pytest.raises(ConfigError, match="alpha"):
        posterior_from_focal(torch.tensor([0.5]), alpha=1.2)
