"""Comparisons that hold on any processor."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_near(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to ``tolerance`` of the largest expected value.

    Sums over many terms, made in another order or layout, differ by the rounding of their largest
    terms; a small element may so differ by more than any relative tolerance of its own.
    """
    assert got.shape == expected.shape
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        got.double(), expected.double(), rtol=0, atol=tolerance * scale, check_device=False
    )
