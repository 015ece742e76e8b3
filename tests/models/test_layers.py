"""Group norm in either memory format: torch's numbers, and the format stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hyperfocal.models.layers import GroupNorm

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("hw", [(1, 1), (5, 7), (20, 20)])
def test_numbers_and_gradients_are_torchs(memory_format: torch.memory_format, hw) -> None:
    ours, torchs = GroupNorm(4, 16).double(), nn.GroupNorm(4, 16).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 16, *hw, dtype=torch.float64)
    upstream = torch.randn_like(x)
    found = []
    for norm, given in ((ours, x.contiguous(memory_format=memory_format)), (torchs, x)):
        leaf = given.clone().requires_grad_()
        out = norm(leaf)
        out.backward(upstream)
        found.append((out, leaf.grad, *(p.grad for p in norm.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_memory_format_stays(memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 8, 5, 7).contiguous(memory_format=memory_format)
    assert GroupNorm(4, 8)(x).is_contiguous(memory_format=memory_format)


def test_bf16_under_autocast() -> None:
    x = torch.randn(2, 8, 5, 7).contiguous(memory_format=torch.channels_last)
    norm = GroupNorm(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = norm(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), norm(x), rtol=0.02, atol=0.05)


def test_no_images() -> None:
    x = torch.zeros(0, 8, 5, 7).contiguous(memory_format=torch.channels_last)
    assert GroupNorm(4, 8)(x).shape == x.shape
