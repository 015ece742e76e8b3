"""EQLv2 with and without objectness, and EQLv2 with focal loss."""

from __future__ import annotations

import pytest
import torch

from hyperfocal.losses import (
    EqualizationLossV2,
    EqualizationLossV2Focal,
    eqlv2_scores,
    equalization_loss_v2,
    equalization_loss_v2_focal,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
)
from hyperfocal.losses.eqlv2 import RatioMap
from hyperfocal.types import ConfigError, DataError

RATIO = torch.tensor([0.0, 0.5, 0.8, 1.0, 100.0])


def test_weights_of_the_map():
    positive, negative = RatioMap().weights(RATIO.double())
    want_negative = [6.8e-5, 0.026597, 0.5, 0.917, 1.0]
    want_positive = [4.9997, 4.893612, 3.0, 1.33, 1.0]
    torch.testing.assert_close(negative, torch.tensor(want_negative).double(), atol=3e-4, rtol=0)
    torch.testing.assert_close(positive, torch.tensor(want_positive).double(), atol=3e-3, rtol=0)
    assert negative[1].item() == pytest.approx(0.026597, abs=1e-6)
    assert positive[1].item() == pytest.approx(4.893612, abs=1e-6)


def test_it_starts_as_cross_entropy_and_as_focal_loss(some_logits, some_labels):
    torch.testing.assert_close(
        EqualizationLossV2(5)(some_logits, some_labels, 2.0),
        sigmoid_cross_entropy(some_logits, some_labels, reduction="sum", normalizer=2.0),
    )
    torch.testing.assert_close(
        EqualizationLossV2Focal(5)(some_logits, some_labels, 2.0),
        sigmoid_focal_loss(some_logits, some_labels, reduction="sum", normalizer=2.0),
    )


def test_objectness_is_one_more_category_of_weight_one(some_labels):
    x = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = equalization_loss_v2(x, some_labels, RATIO)
    background = torch.where(some_labels < 0, -1, (some_labels == 5).long())
    torch.testing.assert_close(value[:, 5], sigmoid_cross_entropy(x[:, 5], background))
    torch.testing.assert_close(value[:, :5], equalization_loss_v2(x[:, :5], some_labels, RATIO))
    torch.testing.assert_close(eqlv2_scores(x), x[:, :5].sigmoid() * (1 - x[:, 5:].sigmoid()))


@pytest.mark.parametrize("columns", [5, 6])
def test_statistics_are_weighted_gradients(some_labels, one_hot, columns):
    x = torch.randn(12, columns, generator=torch.Generator().manual_seed(0))
    loss = EqualizationLossV2(5)
    pos, neg = torch.zeros(5), torch.zeros(5)
    y = one_hot(some_labels, 5).float()
    kept = (some_labels >= 0).float()[:, None]
    for _ in range(2):
        positive, negative = RatioMap().weights(loss.ratio)
        size = (x[:, :5].sigmoid() - y).abs() * kept
        pos += (size * y * positive).sum(0)
        neg += (size * (1 - y) * negative).sum(0)
        loss(x, some_labels, 7.0)  # the normalizer stays out
        loss.step()
        torch.testing.assert_close(loss.pos_grad, pos)
        torch.testing.assert_close(loss.neg_grad, neg)
        torch.testing.assert_close(loss.ratio, pos / (neg + 1e-10))


def test_focal_statistics_are_autograds(some_logits, some_labels, one_hot):
    x = some_logits.float().requires_grad_()
    loss = EqualizationLossV2Focal(5)
    loss.ratio.copy_(RATIO)
    (grad,) = torch.autograd.grad(loss(x, some_labels), x)
    y = one_hot(some_labels, 5).float()
    torch.testing.assert_close(loss.pending_pos, (grad.abs() * y).sum(0))
    torch.testing.assert_close(loss.pending_neg, (grad.abs() * (1 - y)).sum(0))


def test_focal_weights(some_logits, some_labels, one_hot):
    positive, negative = RatioMap(steepness=5, midpoint=1, boost=2).weights(RATIO.double())
    y = one_hot(some_labels, 5)
    want = sigmoid_focal_loss(some_logits, some_labels) * (y * positive + (1 - y) * negative)
    got = equalization_loss_v2_focal(
        some_logits, some_labels, RATIO, ratio_map=RatioMap(steepness=5, midpoint=1, boost=2)
    )
    torch.testing.assert_close(got, want)


def test_configs_build_what_they_say():
    loss = EqualizationLossV2.Config(steepness=3.0, midpoint=0.5, boost=1.0).build(7)
    assert loss.ratio_map == RatioMap(3.0, 0.5, 1.0)
    focal = EqualizationLossV2Focal.Config(alpha=None, gamma=1.0, boost=1.0).build(7)
    assert (focal.alpha, focal.gamma, focal.ratio_map) == (None, 1.0, RatioMap(boost=1.0))
    assert focal.ratio.tolist() == [100.0] * 7


def test_bad_input(some_labels):
    with pytest.raises(ConfigError, match="5 categories"):
        equalization_loss_v2(torch.zeros(12, 7), some_labels, RATIO)
    with pytest.raises(ConfigError, match="5 categories"):
        equalization_loss_v2_focal(torch.zeros(12, 6), some_labels, RATIO)
    with pytest.raises(DataError, match="integer labels"):
        equalization_loss_v2(torch.zeros(12, 6), torch.zeros(12, 6), RATIO)
    with pytest.raises(ConfigError, match="boost"):
        EqualizationLossV2.Config(boost=-1)
    with pytest.raises(ConfigError, match="steepness"):
        RatioMap(steepness=-1)


@pytest.mark.parametrize("backend", ["plain", "fused"])
def test_a_negative_ratio_is_refused_by_either_form(backend):
    x, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ConfigError, match="ratio"):
        equalization_loss_v2_focal(
            x, labels, torch.tensor([-1.0, 0.0, 1.0]), reduction="sum", backend=backend
        )
