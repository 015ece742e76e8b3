"""Quality focal, varifocal, equalized quality focal and distribution focal loss."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from hyperfocal import losses
from hyperfocal.losses import (
    DistributionFocalLoss,
    EqualizedQualityFocalLoss,
    QualityFocalLoss,
    VarifocalLoss,
    distribution_focal_loss,
    equalized_quality_focal_loss,
    expected_distance,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)
from hyperfocal.types import ConfigError, DataError

RATIO = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])


@pytest.fixture
def quality() -> torch.Tensor:
    """``(12,)``, with a zero, a one, and NaN where it isn't used (rows 2, 3, 5, 6, 7, 10)."""
    nan = float("nan")
    values = [0.8, 0.3, nan, nan, 0.0, nan, nan, nan, 1.0, 0.5, nan, 0.05]
    return torch.tensor(values, dtype=torch.float64)


def dense_quality(labels, quality, one_hot):
    return one_hot(labels, 5) * quality.nan_to_num(0.0)[:, None]


def written_out(x, q, beta):
    """QFL and VFL's cross entropy, from probabilities."""
    p = x.sigmoid()
    ce = -(torch.xlogy(q, p) + torch.xlogy(1 - q, 1 - p))
    return (q - p).abs() ** beta * ce


def test_golden_numbers():
    x, q = torch.zeros(1, dtype=torch.float64), torch.full((1,), 0.8, dtype=torch.float64)
    assert quality_focal_loss(x, q).item() == pytest.approx(0.062383, abs=1e-6)
    assert varifocal_loss(x, q).item() == pytest.approx(0.554518, abs=1e-6)
    x = torch.tensor([0.1], dtype=torch.float64).logit()
    assert varifocal_loss(x, q * 0).item() == pytest.approx(0.000790, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 3.5])
def test_qfl_is_its_formula(some_logits, some_labels, quality, one_hot, beta):
    dense = dense_quality(some_labels, quality, one_hot)
    want = written_out(some_logits, dense, beta)
    torch.testing.assert_close(quality_focal_loss(some_logits, dense, beta=beta), want)
    got = quality_focal_loss(some_logits, some_labels, quality=quality, beta=beta)
    torch.testing.assert_close(got, want * (some_labels >= 0)[:, None])


def test_perfect_quality_is_focal_loss(some_logits, some_labels):
    want = sigmoid_focal_loss(some_logits, some_labels, alpha=None, gamma=1.5)
    for q in (None, torch.ones(12)):
        got = quality_focal_loss(some_logits, some_labels, quality=q, beta=1.5)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("weighted", [True, False])
def test_vfl_is_its_formula(some_logits, some_labels, quality, one_hot, weighted):
    dense = dense_quality(some_labels, quality, one_hot)
    p = some_logits.sigmoid()
    positive = written_out(some_logits, dense, 0) * (dense if weighted else 1)
    want = torch.where(dense > 0, positive, -0.6 * p**1.5 * (1 - p).log())
    settings = {"alpha": 0.6, "gamma": 1.5, "iou_weighted": weighted}
    torch.testing.assert_close(varifocal_loss(some_logits, dense, **settings), want)
    got = varifocal_loss(some_logits, some_labels, quality=quality, **settings)
    torch.testing.assert_close(got, want * (some_labels >= 0)[:, None])


@pytest.mark.parametrize(
    "loss",
    [
        quality_focal_loss,
        varifocal_loss,
        lambda x, y, **k: equalized_quality_focal_loss(x, y, RATIO, **k),
    ],
)
def test_derivatives_with_soft_targets(loss, some_logits, some_labels, quality, hard_logits):
    x = some_logits.clone().requires_grad_()
    assert gradcheck(lambda x: loss(x, some_labels, quality=quality), x)
    assert gradgradcheck(lambda x: loss(x, some_labels, quality=quality), x)
    soft = torch.rand(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert gradcheck(lambda x: loss(x, soft), x)
    for dtype in (torch.float32, torch.float16):
        hard = hard_logits[: len(hard_logits) // 5 * 5].reshape(-1, 5).to(dtype)
        for q in (0.0, 1e-3, 0.5, 1.0):
            leaf = hard.clone().requires_grad_()
            value = loss(leaf, torch.full(hard.shape, q))
            (grad,) = torch.autograd.grad(value.sum(), leaf)
            assert torch.isfinite(value).all()
            assert torch.isfinite(grad).all()


def test_gradient_is_finite_where_p_is_the_quality():
    for beta in (0.0, 0.5, 1.0, 2.0):
        x = torch.zeros(1, requires_grad=True)
        value = quality_focal_loss(x, torch.full((1,), 0.5), beta=beta)
        (grad,) = torch.autograd.grad(value.sum(), x)
        assert grad.item() == 0


def test_no_gradient_flows_into_the_quality(some_logits, some_labels):
    q = torch.rand(12, requires_grad=True)
    x = some_logits.float().requires_grad_()
    quality_focal_loss(x, some_labels, quality=q, reduction="sum").backward()
    assert q.grad is None
    assert x.grad is not None


# ---------------------------------------------------------------- EQFL


def test_eqfl_with_ratio_one_or_scale_zero_is_qfl(some_logits, some_labels, quality):
    want = quality_focal_loss(some_logits, some_labels, quality=quality)
    for settings in ({"ratio": torch.ones(5)}, {"ratio": RATIO, "scale": 0}):
        got = equalized_quality_focal_loss(some_logits, some_labels, quality=quality, **settings)
        torch.testing.assert_close(got, want)


def test_eqfl_scales_and_focuses_by_category(some_logits, some_labels, quality):
    got = equalized_quality_focal_loss(some_logits, some_labels, RATIO, quality=quality)
    for j, ratio in enumerate(RATIO.tolist()):
        gamma = 2 + 8 * (1 - ratio)
        want = quality_focal_loss(some_logits, some_labels, quality=quality, beta=gamma)
        torch.testing.assert_close(got[:, j], gamma / 2 * want[:, j], rtol=1e-6, atol=1e-9)


def test_eqfl_statistics_are_autograds(some_logits, some_labels, quality, one_hot):
    x = some_logits.float().requires_grad_()
    loss = EqualizedQualityFocalLoss(5)
    loss.ratio.copy_(RATIO)
    (grad,) = torch.autograd.grad(loss(x, some_labels, 3.0, quality), x)
    y = one_hot(some_labels, 5).float()
    torch.testing.assert_close(loss.pending_pos, (grad.abs() * y).sum(0))
    torch.testing.assert_close(loss.pending_neg, (grad.abs() * (1 - y)).sum(0))
    again = copy.deepcopy(loss)
    again.pending_pos.zero_(), again.pending_neg.zero_()
    dense = dense_quality(some_labels, quality, one_hot)[some_labels >= 0].float()
    again(x[some_labels >= 0], dense, 3.0)
    # A dense target of 0 can't be told from the background, so row 4's object counts as such.
    torch.testing.assert_close(
        again.pending_pos + again.pending_neg, loss.pending_pos + loss.pending_neg
    )
    loss.step()
    want = (loss.pos_grad / (loss.neg_grad + 1e-10)).clamp(max=1)
    assert loss.ratio.equal(want)


def test_modules_are_quality_losses(some_logits, some_labels, quality):
    built = [
        (QualityFocalLoss.Config(beta=1.5), quality_focal_loss, {"beta": 1.5}),
        (
            VarifocalLoss.Config(alpha=0.5, gamma=1.0, iou_weighted=False),
            varifocal_loss,
            {"alpha": 0.5, "gamma": 1.0, "iou_weighted": False},
        ),
    ]
    for config, function, settings in built:
        module = config.build(5)
        assert isinstance(module, losses.QualityLoss)
        want = function(some_logits, some_labels, quality=quality, **settings).sum() / 4
        torch.testing.assert_close(module(some_logits, some_labels, 4.0, quality), want)
    eqfl = EqualizedQualityFocalLoss.Config(gamma=1.0, scale=3.0).build(5)
    assert isinstance(eqfl, losses.QualityLoss)
    assert (eqfl.gamma, eqfl.scale) == (1.0, 3.0)


def test_bad_quality(some_logits, some_labels):
    with pytest.raises(DataError, match=r"\(3,\)"):
        quality_focal_loss(some_logits, some_labels, quality=torch.ones(3))
    with pytest.raises(DataError, match=r"1\.5"):
        quality_focal_loss(some_logits, some_labels, quality=torch.full((12,), 1.5))
    with pytest.raises(DataError, match="float targets"):
        varifocal_loss(some_logits, torch.zeros(12, 5), quality=torch.ones(12))
    with pytest.raises(ConfigError, match="beta"):
        quality_focal_loss(some_logits, some_labels, beta=-1)
    with pytest.raises(ConfigError, match="alpha"):
        varifocal_loss(some_logits, some_labels, alpha=2)


# ---------------------------------------------------------------- DFL


def test_dfl_is_cross_entropy_with_the_two_bins_around():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 17, dtype=torch.float64, generator=generator)
    t = torch.rand(6, 4, dtype=torch.float64, generator=generator) * 15.9
    target = (1 - (torch.arange(17) - t[..., None]).abs()).clamp(min=0)
    want = -(target * x.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(distribution_focal_loss(x, t), want)
    weight = torch.rand(6, 4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(
        DistributionFocalLoss()(x, t, 4.0, weight), (want * weight).sum() / 4
    )
    assert gradcheck(lambda x: distribution_focal_loss(x, t), x.requires_grad_())


def test_dfl_clips_to_just_below_the_last_bin_and_is_least_at_the_true_distance():
    x = torch.full((1, 17), -20.0)
    x[0, 15], x[0, 16] = 0.0, 4.0  # unequal: the loss depends on the place between them
    far = distribution_focal_loss(x, torch.tensor([1e6]))
    log_p = x.log_softmax(-1)[0]
    assert far.item() == pytest.approx(float(-0.1 * log_p[15] - 0.9 * log_p[16]), rel=1e-4)
    logits = torch.zeros(1, 17, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        distribution_focal_loss(logits, torch.tensor([3.3]), reduction="sum").backward()
        optimizer.step()
    assert expected_distance(logits.detach()).item() == pytest.approx(3.3, abs=0.05)


def test_dfl_bad_input():
    with pytest.raises(DataError, match="-1"):
        distribution_focal_loss(torch.zeros(1, 17), torch.tensor([-1.0]))
    with pytest.raises(DataError, match=r"\(2,\)"):
        distribution_focal_loss(torch.zeros(1, 17), torch.zeros(2))
    with pytest.raises(DataError, match="two"):
        distribution_focal_loss(torch.zeros(1, 1), torch.zeros(1))


def test_float_targets_are_constants(some_logits):
    q = torch.full_like(some_logits, 0.6).requires_grad_()
    x = some_logits.clone().requires_grad_()
    for loss in (quality_focal_loss, varifocal_loss):
        of_x, of_q = torch.autograd.grad(loss(x, q).sum(), (x, q), allow_unused=True)
        assert of_x.abs().sum() > 0
        assert of_q is None


@pytest.mark.parametrize("bins", [17, 34, 257])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dfl_clips_in_a_dtype_that_can(bins, dtype):
    far = torch.tensor([3.0, 1000.0], dtype=dtype)
    x = torch.randn(2, bins)
    torch.testing.assert_close(
        distribution_focal_loss(x, far), distribution_focal_loss(x, far.float())
    )
