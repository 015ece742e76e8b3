"""Every classification loss is finite, with a finite gradient, for logits of any size to 1e30."""

from __future__ import annotations

import pytest
import torch
from tests.components import LOSSES, build_loss, each_loss

from hyperfocal.losses import (
    BalancedGroupSoftmaxLoss,
    CategoryGroups,
    QualityLoss,
    SeesawLoss,
    SoftmaxFocalLoss,
)

SIZES = [1e2, 1e4, 1e20, 1e30]


def logits(size: float, columns: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """All signs, for every label and the background."""
    signs = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, 1, 1], [-1, -1, -1]])
    wide = signs.repeat(1, -(-columns // 3))[:, :columns].repeat_interleave(4, dim=0)
    return (wide * size).to(dtype).requires_grad_()


LABELS = torch.tensor([0, 1, 2, 3]).repeat(4)


def assert_finite(loss: torch.nn.Module, x: torch.Tensor, **more: object) -> None:
    value = loss(x, LABELS, 4.0, **more)
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@each_loss
def test_sigmoid_losses(config: type, dtype: torch.dtype, size: float) -> None:
    loss = build_loss(config, 3)
    quality = torch.tensor([0.0, 0.3, 0.7, 1.0]).repeat_interleave(4)
    more = {"quality": quality} if isinstance(loss, QualityLoss) else {}
    assert_finite(loss, logits(size, 3, dtype), **more)


def test_all_sigmoid_losses_are_looked_at() -> None:
    assert {"ce", "focal", "efl", "eqlv2", "qfl", "vfl", "ghm"} <= {c.kind for c in LOSSES}


@pytest.mark.parametrize("size", SIZES)
def test_softmax_losses(size: float) -> None:
    assert_finite(SoftmaxFocalLoss(), logits(size, 4))
    assert_finite(SeesawLoss(3), logits(size, 5))
    groups = CategoryGroups.from_counts([5, 50, 500])
    x = logits(size, groups.num_logits)
    value = BalancedGroupSoftmaxLoss(groups)(x, LABELS)
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
