"""References and inputs that all tests of the losses share."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

mpmath.mp.dps = 50
LEAST_NORMAL = 1.1754944e-38


class Exact:
    """Formulas at 50 digits, for one logit; independent of the package."""

    @staticmethod
    def sigmoid(x: float) -> mpmath.mpf:
        return 1 / (1 + mpmath.exp(-mpmath.mpf(x)))

    @staticmethod
    def focal(x_t: float, gamma: float) -> tuple[mpmath.mpf, mpmath.mpf]:
        """Value and derivative of -(1 - p_t)^γ log p_t with respect to x_t (eq. 10)."""
        x_t, gamma = mpmath.mpf(x_t), mpmath.mpf(gamma)
        wrong, right = Exact.sigmoid(-x_t), Exact.sigmoid(x_t)
        cross_entropy = mpmath.log1p(mpmath.exp(-x_t))  # -log p_t
        value = wrong**gamma * cross_entropy
        return value, -(wrong**gamma) * (wrong + gamma * right * cross_entropy)

    @staticmethod
    def worst_error(got: Tensor, want: list[mpmath.mpf]) -> float:
        """Greatest relative error; what is subnormal in float32 may be anything as small."""
        worst = mpmath.mpf(0)
        for found, true in zip(got.tolist(), want, strict=True):
            if abs(true) < LEAST_NORMAL:
                assert abs(found) <= 2 * LEAST_NORMAL
            else:
                worst = max(worst, abs((mpmath.mpf(found) - true) / true))
        return float(worst)


@pytest.fixture(scope="session")
def exact() -> Exact:
    return Exact()


@pytest.fixture(scope="session")
def hard_logits() -> Tensor:
    """Logits where losses go wrong: saturation, zero, underflow, and ordinary ones."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat(
        [
            torch.linspace(-110, 110, 551),
            torch.randn(100, generator=generator),
            torch.randn(100, generator=generator) * 15,
            torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e3, -1e3, 1e4, -1e4]),
        ]
    )


@pytest.fixture(scope="session")
def one_hot() -> Callable[[Tensor, int], Tensor]:
    """Labels with background K (and ignored as background) as ``(..., K)`` floats."""

    def to_one_hot(labels: Tensor, k: int) -> Tensor:
        background = torch.where(labels < 0, k, labels)
        return torch.nn.functional.one_hot(background, k + 1)[..., :k].double()

    return to_one_hot


@pytest.fixture(scope="session")
def some_labels() -> Tensor:
    """``(12,)`` labels of 5 categories with background (5) and ignored (-1) among them."""
    return torch.tensor([0, 4, 5, -1, 2, 5, 5, -1, 3, 1, 5, 2])


@pytest.fixture(scope="session")
def some_logits() -> Tensor:
    """``(12, 5)`` float64."""
    return torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
