"""Smooth L1, IoU and GIoU."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops
from torch.autograd import gradcheck

from hyperfocal.losses import (
    GIoULoss,
    IoULoss,
    SmoothL1Loss,
    giou_loss,
    iou_loss,
    smooth_l1_loss,
)
from hyperfocal.types import ConfigError, DataError


def boxes(n: int, seed: int) -> torch.Tensor:
    corner, size = torch.rand(2, n, 2, generator=torch.Generator().manual_seed(seed)).double()
    return torch.cat([corner, corner + size + 0.05], -1)


@pytest.mark.parametrize("beta", [0.0, 0.11, 1.0])
def test_smooth_l1_agrees_with_torch(beta):
    pred, target = boxes(50, 0), boxes(50, 1)
    want = torch.nn.functional.smooth_l1_loss(pred, target, beta=beta, reduction="none")
    torch.testing.assert_close(smooth_l1_loss(pred, target, beta=beta), want)
    assert gradcheck(lambda p: smooth_l1_loss(p, target, beta=beta), pred.requires_grad_())


def test_smooth_l1_at_extremes():
    pred = torch.tensor([[-1e4, 1e4, 0.0, 1e-20]]).half().requires_grad_()
    loss = smooth_l1_loss(pred, torch.zeros(1, 4), beta=0.11)
    (grad,) = torch.autograd.grad(loss.sum(), pred)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert grad.tolist() == [[-1.0, 1.0, 0.0, 0.0]]


def test_iou_and_giou_agree_with_torchvision():
    pred, target = boxes(200, 2), boxes(200, 3)
    iou = torchvision.ops.box_iou(pred, target).diagonal()
    assert (iou == 0).any()
    torch.testing.assert_close(iou_loss(pred, target, form="linear"), 1 - iou, atol=1e-5, rtol=0)
    squared = iou_loss(pred, target, form="squared")
    torch.testing.assert_close(squared, 1 - iou**2, atol=1e-5, rtol=0)
    touching = iou > 0.01
    torch.testing.assert_close(
        iou_loss(pred, target)[touching], -iou[touching].log(), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        giou_loss(pred, target),
        torchvision.ops.generalized_box_iou_loss(pred, target),
        atol=1e-5,
        rtol=0,
    )


def test_giou_of_separate_boxes():
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    assert giou_loss(a, b).item() == pytest.approx(4 / 3, abs=1e-6)
    a.requires_grad_()
    (grad,) = torch.autograd.grad(giou_loss(a, b).sum(), a)
    assert grad[0, 2] < 0  # the right edge is pulled towards the other box


@pytest.mark.parametrize("loss", [giou_loss, iou_loss])
def test_box_losses_gradcheck_and_degenerate_boxes(loss):
    target = boxes(20, 4)
    pred = (target + boxes(20, 5) * 0.2).requires_grad_()
    assert gradcheck(lambda p: loss(p, target), pred)
    odd = torch.tensor([[0.0, 0, 0, 0], [5, 5, 1, 1], [1, 1, 1, 9], [0, 0, 1e4, 1e4]])
    odd.requires_grad_()
    value = loss(odd, torch.tensor([[0.0, 0, 0, 0]]).expand(4, 4))
    (grad,) = torch.autograd.grad(value.sum(), odd)
    assert torch.isfinite(value).all()
    assert torch.isfinite(grad).all()
    same = loss(target, target)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        SmoothL1Loss.Config(),
        GIoULoss.Config(),
        IoULoss.Config(),
        IoULoss.Config("linear"),
        IoULoss.Config("squared"),
    ],
)
def test_modules_sum_weighted_rows(config):
    loss = config.build()
    pred, target = boxes(9, 6), boxes(9, 7)
    weight = torch.rand(9, dtype=torch.float64)
    one_by_one = sum(
        w * loss(p[None], t[None]) for p, t, w in zip(pred, target, weight, strict=True)
    )
    torch.testing.assert_close(loss(pred, target, 3.0, weight), one_by_one / 3)
    assert loss(pred[:0], target[:0], torch.tensor(1.0)) == 0


def test_bad_input():
    with pytest.raises(DataError, match=r"\(3, 4\)"):
        giou_loss(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(DataError, match=r"\(3, 5\)"):
        iou_loss(torch.zeros(3, 5), torch.zeros(3, 5))
    with pytest.raises(DataError, match="weight"):
        giou_loss(torch.zeros(3, 4), torch.zeros(3, 4), weight=torch.zeros(3, 4))
    with pytest.raises(ConfigError, match="beta = -1"):
        smooth_l1_loss(torch.zeros(3, 4), torch.zeros(3, 4), beta=-1)
    with pytest.raises(ConfigError, match="square"):
        iou_loss(torch.zeros(3, 4), torch.zeros(3, 4), form="square")
    with pytest.raises(ConfigError, match="beta"):
        SmoothL1Loss.Config(beta=-0.1)
