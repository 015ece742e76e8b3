"""Comparisons that hold on any processor."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_near(
    got: Tensor, expected: Tensor, rtol: float = 1e-3, of_largest: float = 1e-6
) -> None:
    """Equal up to ``rtol`` of each element, or ``of_largest`` times the largest expected value.

    Sums over many terms, made in another order or layout, differ by the rounding of their largest
    terms; a small element may so differ by more than any relative tolerance of its own.
    """
    assert got.shape == expected.shape
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        got.double(), expected.double(), rtol=rtol, atol=of_largest * scale, check_device=False
    )


def assert_same_steps(
    got: dict[str, Tensor], expected: dict[str, Tensor], before: dict[str, Tensor]
) -> None:
    """The weights have changed equally since ``before``.

    Each parameter's change is compared as a whole. A change that is zero but for rounding may
    differ by 1e-4 of the largest one.
    """
    assert got.keys() == expected.keys() == before.keys()
    changes = {name: (expected[name] - before[name]).double() for name in before}
    largest = max(float(change.norm()) for change in changes.values())
    assert largest > 0
    for name, change in changes.items():
        off = float((got[name] - expected[name]).double().norm())
        assert off <= 0.01 * float(change.norm()) + 1e-4 * largest, name
