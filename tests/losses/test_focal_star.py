"""FL* and the hinge loss."""

from __future__ import annotations

import mpmath
import pytest
import torch

from hyperfocal.losses import (
    FocalStarLoss,
    HingeLoss,
    focal_star_loss,
    hinge_loss,
    sigmoid_cross_entropy,
)
from hyperfocal.types import ConfigError


@pytest.mark.parametrize(("gamma", "beta"), [(2.0, 1.0), (4.0, 0.0), (0.3, -2.0), (5.0, 1.0)])
def test_float32_value_and_gradient_to_4e_6(exact, hard_logits, gamma, beta):
    x = hard_logits.clone().requires_grad_()
    value = focal_star_loss(x, torch.ones(x.shape).long(), alpha=None, gamma=gamma, beta=beta)
    (grad,) = torch.autograd.grad(value.sum(), x)
    z = [mpmath.mpf(gamma) * mpmath.mpf(v) + mpmath.mpf(beta) for v in hard_logits.tolist()]
    assert exact.worst_error(value, [mpmath.log1p(mpmath.exp(-v)) / gamma for v in z]) <= 4e-6
    assert exact.worst_error(grad, [-exact.sigmoid(-v) for v in z]) <= 4e-6


def test_golden_numbers():
    x, one = torch.zeros(1, dtype=torch.float64, requires_grad=True), torch.ones(1).long()
    for gamma, beta, value, slope in ((2, 1, 0.156631, -0.268941), (4, 0, 0.173287, -0.5)):
        got = focal_star_loss(x, one, alpha=None, gamma=gamma, beta=beta)
        assert got.item() == pytest.approx(value, abs=1e-6)
        assert torch.autograd.grad(got, x)[0].item() == pytest.approx(slope, abs=1e-6)


def test_one_and_zero_is_cross_entropy(some_logits, some_labels):
    torch.testing.assert_close(
        focal_star_loss(some_logits, some_labels, alpha=0.4, gamma=1, beta=0),
        sigmoid_cross_entropy(some_logits, some_labels, alpha=0.4),
    )


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_hinge_is_its_formula(some_logits, some_labels, one_hot, margin):
    y = one_hot(some_labels, 5)
    p_t = torch.where(y == 1, some_logits.sigmoid(), 1 - some_logits.sigmoid())
    want = (margin - p_t).clamp(min=0) * (some_labels >= 0)[:, None]
    torch.testing.assert_close(hinge_loss(some_logits, some_labels, margin=margin), want)


def test_hinge_keeps_its_digits_at_margin_one(exact, hard_logits):
    x = hard_logits.clone().requires_grad_()
    value = hinge_loss(x, torch.ones(x.shape).long(), margin=1.0)
    (grad,) = torch.autograd.grad(value.sum(), x)
    wrong = [exact.sigmoid(-v) for v in hard_logits.tolist()]
    right = [exact.sigmoid(v) for v in hard_logits.tolist()]
    assert exact.worst_error(value, wrong) <= 4e-6
    slope = [-a * b for a, b in zip(wrong, right, strict=True)]
    assert exact.worst_error(grad, slope) <= 4e-6


def test_modules(some_logits, some_labels):
    star = FocalStarLoss.Config(alpha=None, gamma=4.0, beta=0.5).build(5)
    torch.testing.assert_close(
        star(some_logits, some_labels, 2.0),
        focal_star_loss(some_logits, some_labels, alpha=None, gamma=4.0, beta=0.5).sum() / 2,
    )
    hinge = HingeLoss.Config(alpha=0.25, margin=0.7).build(5)
    torch.testing.assert_close(
        hinge(some_logits, some_labels, 2.0),
        hinge_loss(some_logits, some_labels, alpha=0.25, margin=0.7).sum() / 2,
    )


def test_bad_settings():
    x, labels = torch.zeros(1, 2), torch.zeros(1).long()
    with pytest.raises(ConfigError, match="gamma"):
        focal_star_loss(x, labels, gamma=0)
    with pytest.raises(ConfigError, match="beta"):
        focal_star_loss(x, labels, beta=float("inf"))
    for margin in (0, 1.1):
        with pytest.raises(ConfigError, match="margin"):
            hinge_loss(x, labels, margin=margin)
        with pytest.raises(ConfigError, match="margin"):
            HingeLoss.Config(margin=margin)
    with pytest.raises(ConfigError, match="gamma"):
        FocalStarLoss.Config(gamma=0)
