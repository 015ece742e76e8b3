"""Equalized focal loss: the formula, its statistics, and its memory."""

from __future__ import annotations

import copy

import mpmath
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from hyperfocal.losses import (
    EqualizedFocalLoss,
    equalized_focal_loss,
    first_gradient_ratio,
    sigmoid_focal_loss,
)
from hyperfocal.losses._core.memory import LossWithMemory, step_losses
from hyperfocal.losses.equalized_focal import equalized_focal_gradients
from hyperfocal.types import ConfigError, DataError

RATIO = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])


def test_ratio_one_is_focal_loss(some_logits, some_labels):
    torch.testing.assert_close(
        equalized_focal_loss(some_logits, some_labels, torch.ones(5)),
        sigmoid_focal_loss(some_logits, some_labels),
        atol=0,
        rtol=1e-12,
    )


def test_scale_zero_is_focal_loss_to_the_last_bit(hard_logits):
    x = hard_logits.reshape(-1, 3).clone().requires_grad_()
    labels = torch.arange(len(x)) % 5 - 1
    efl = EqualizedFocalLoss(3, scale=0)
    efl.ratio.copy_(torch.tensor([0.0, 0.3, 1.0]))
    ours = efl(x, labels, 7.0)
    focal = sigmoid_focal_loss(x, labels, reduction="sum", normalizer=7.0)
    assert ours.equal(focal)
    assert torch.autograd.grad(ours, x)[0].equal(torch.autograd.grad(focal, x)[0])


def test_golden_numbers():
    one, unseen = torch.ones(1, 1, dtype=torch.long), torch.zeros(1)
    for p, efl, focal in (
        (0.05, 8.96828, 2.70365),
        (0.1, 4.01431, 1.86509),
        (0.5, 0.00338451, 0.173287),
    ):
        x = torch.tensor([[p]], dtype=torch.float64).logit()
        got = equalized_focal_loss(x, one, unseen, alpha=None)
        assert got.item() == pytest.approx(efl, rel=1e-5)
        assert sigmoid_focal_loss(x, one, alpha=None).item() == pytest.approx(focal, rel=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.77, 1.0])
def test_float32_value_and_gradient_to_4e_6(exact, hard_logits, ratio):
    ratio = torch.tensor([ratio])
    gamma = (2 + 8 * (1 - ratio)).item()
    for positive, alpha in ((1, mpmath.mpf(1) / 4), (0, mpmath.mpf(3) / 4)):
        x = hard_logits[:, None].clone().requires_grad_()
        targets = torch.full(x.shape, positive)
        value = equalized_focal_loss(x, targets, ratio)
        (grad,) = torch.autograd.grad(value.sum(), x)
        sign = 1 if positive else -1
        true = [exact.focal(sign * v, gamma) for v in hard_logits.tolist()]
        factor = alpha * mpmath.mpf(gamma) / 2
        assert exact.worst_error(value.flatten(), [factor * v for v, _ in true]) <= 4e-6
        assert exact.worst_error(grad.flatten(), [sign * factor * d for _, d in true]) <= 4e-6


def test_gradcheck_and_gradgradcheck(some_logits, some_labels):
    x = some_logits.clone().requires_grad_()
    for targets in (some_labels, torch.rand(12, 5, dtype=torch.float64)):
        assert gradcheck(lambda x, t=targets: equalized_focal_loss(x, t, RATIO), x)
        assert gradgradcheck(lambda x, t=targets: equalized_focal_loss(x, t, RATIO), x)


def summed_gradients(x, labels, one_hot, **settings):
    """Per category, |autograd's gradient| over positives and over the rest; ignored rows out."""
    x = x.detach().requires_grad_()
    loss = equalized_focal_loss(x, labels, RATIO, reduction="sum", **settings)
    (grad,) = torch.autograd.grad(loss, x)
    y = one_hot(labels, x.shape[-1])
    return (grad.abs() * y).sum(0), (grad.abs() * (1 - y)).sum(0)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_statistics_are_the_absolute_gradients(some_logits, some_labels, one_hot, alpha):
    want = summed_gradients(some_logits, some_labels, one_hot, alpha=alpha, normalizer=3.0)
    got = equalized_focal_gradients(some_logits, some_labels, RATIO, alpha=alpha, normalizer=3.0)
    torch.testing.assert_close(got, want)
    dense = one_hot(some_labels, 5).long().masked_fill((some_labels < 0)[:, None], -1)
    got = equalized_focal_gradients(some_logits, dense, RATIO, alpha=alpha, normalizer=3.0)
    torch.testing.assert_close(got, want)


def test_factors_apart(some_logits, some_labels):
    """Paper, Table 3: the focusing parameter alone is focal loss with γ_j, the weight factor alone
    focal loss times γ_j/γ_b; statistics are the gradients of what is used."""
    for factors in ("focusing", "weighting"):
        focus = 2 + 8 * (1 - RATIO)
        whole = equalized_focal_loss(some_logits, some_labels, RATIO, factors=factors)
        for k, gamma in enumerate(focus.tolist()):
            if factors == "focusing":
                focal = sigmoid_focal_loss(some_logits, some_labels, gamma=gamma)
            else:
                focal = sigmoid_focal_loss(some_logits, some_labels) * gamma / 2
            torch.testing.assert_close(whole[:, k], focal[:, k])
    with pytest.raises(ConfigError, match="factors = 'none'"):
        equalized_focal_loss(some_logits, some_labels, RATIO, factors="none")


@pytest.mark.parametrize("factors", ["focusing", "weighting"])
def test_factors_apart_keep_their_own_statistics(some_logits, some_labels, one_hot, factors):
    want = summed_gradients(some_logits, some_labels, one_hot, factors=factors)
    got = equalized_focal_gradients(some_logits, some_labels, RATIO, factors=factors)
    torch.testing.assert_close(got, want)
    assert EqualizedFocalLoss.Config(factors=factors).build(5).factors == factors
    loss = EqualizedFocalLoss(5, factors=factors, backend="fused")
    loss.ratio.copy_(RATIO)
    x = some_logits.float()
    total = loss(x, some_labels)
    plain = equalized_focal_loss(x, some_labels, RATIO.float(), factors=factors, reduction="sum")
    torch.testing.assert_close(total, plain)
    loss.step()
    torch.testing.assert_close(loss.pos_grad.double(), want[0].double(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss.neg_grad.double(), want[1].double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ["plain", "fused"])
def test_ratios_of_cross_entropys_gradients(some_logits, some_labels, one_hot, backend):
    """|p - y| over the normalizer, whatever the loss; the loss itself doesn't change."""
    assert EqualizedFocalLoss.Config(ratio_of="cross_entropy").build(5).ratio_of == "cross_entropy"
    loss = EqualizedFocalLoss(5, ratio_of="cross_entropy", backend=backend)
    loss.ratio.copy_(RATIO)
    x = some_logits.float().requires_grad_()
    total = loss(x, some_labels, 3.0)
    total.backward()
    own = EqualizedFocalLoss(5, backend=backend)
    own.ratio.copy_(RATIO)
    assert torch.equal(total, own(x, some_labels, 3.0))
    loss.step()
    positive = one_hot(some_labels, 5) > 0
    distance = (x.detach().double().sigmoid() - positive.double()).abs() / 3
    distance[some_labels < 0] = 0
    for got, want in ((loss.pos_grad, positive), (loss.neg_grad, ~positive)):
        torch.testing.assert_close(got.double(), (distance * want).sum(0), rtol=1e-5, atol=0)
    loss.eval()
    loss(x, some_labels)
    assert not loss.pending_pos.any()


def test_tiny_negative_gradients_survive_large_positives():
    x = torch.tensor([[9.0], [-9.0], [-9.0]])
    labels = torch.tensor([0, 1, 1])
    exact = equalized_focal_gradients(x.double(), labels, torch.ones(1))
    single = equalized_focal_gradients(x, labels, torch.ones(1))
    torch.testing.assert_close(torch.cat(single).double(), torch.cat(exact), atol=0, rtol=1e-5)


def test_step_accumulates_and_clamps(some_logits, some_labels):
    loss = EqualizedFocalLoss(5)
    assert (loss.ratio == 1).all()
    pos, neg = torch.zeros(5), torch.zeros(5)
    for seed in range(3):
        x = torch.randn(40, 5, generator=torch.Generator().manual_seed(seed)) - 2
        labels = torch.arange(40) % 6
        before = loss.ratio.clone()
        value = loss(x, labels, 4.0)
        torch.testing.assert_close(
            value, equalized_focal_loss(x, labels, before, reduction="sum", normalizer=4.0)
        )
        assert loss.ratio.equal(before)  # until the step
        new_pos, new_neg = equalized_focal_gradients(x, labels, before, normalizer=4.0)
        pos, neg = pos + new_pos, neg + new_neg
        loss.step()
        torch.testing.assert_close(loss.pos_grad, pos)
        torch.testing.assert_close(loss.neg_grad, neg)
        torch.testing.assert_close(loss.ratio, (pos / (neg + 1e-10)).clamp(0, 1))


def test_unseen_categories_drop_to_zero_at_the_first_step():
    loss = EqualizedFocalLoss(3)
    labels = torch.full((50,), 3)
    labels[:20] = 0
    loss(torch.full((50, 3), -6.0), labels)
    loss.step()
    assert loss.ratio.tolist() == [1, 0, 0]


def test_calls_before_a_step_add_up(some_logits, some_labels):
    x = some_logits.float()
    whole, parts = EqualizedFocalLoss(5), EqualizedFocalLoss(5)
    total = whole(x, some_labels)
    split = sum(
        parts(a, b) for a, b in zip(x.split([5, 0, 7]), some_labels.split([5, 0, 7]), strict=True)
    )
    torch.testing.assert_close(split, total)
    whole.step()
    parts.step()
    torch.testing.assert_close(parts.ratio, whole.ratio)
    torch.testing.assert_close(parts.neg_grad, whole.neg_grad)


def test_step_without_a_forward_and_eval_change_nothing(some_logits, some_labels):
    loss = EqualizedFocalLoss(5)
    loss.step()
    assert (loss.ratio == 1).all()
    loss.eval()
    loss(some_logits, some_labels)
    loss.step()
    assert (loss.ratio == 1).all()
    assert (loss.neg_grad == 0).all()


def test_checkpoint_carries_pending_statistics(some_logits, some_labels):
    x = some_logits.float()
    loss = EqualizedFocalLoss(5)
    loss(x, some_labels)
    loss.step()
    loss(x.flip(0), some_labels)
    again = EqualizedFocalLoss(5)
    again.load_state_dict(copy.deepcopy(loss.state_dict()))
    for each in (loss, again):
        each.step()
    assert loss.ratio.equal(again.ratio)
    assert again(x, some_labels).equal(loss(x, some_labels))


def test_statistics_are_float32_under_autocast(some_logits, some_labels):
    x = some_logits.bfloat16()
    half, single = EqualizedFocalLoss(5), EqualizedFocalLoss(5)
    with torch.autocast("cpu", torch.bfloat16):
        half(x, some_labels)
    single(x.float(), some_labels)
    assert half.pending_neg.dtype == torch.float32
    assert half.pending_neg.equal(single.pending_neg)


def test_a_loss_cast_to_half_is_refused(some_logits, some_labels):
    with pytest.raises(ConfigError, match="bfloat16"):
        EqualizedFocalLoss(5).bfloat16()(some_logits, some_labels)


def test_step_losses_finds_every_loss_with_memory(some_logits, some_labels):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), EqualizedFocalLoss(5))
    loss = model[1]
    assert isinstance(loss, LossWithMemory)
    loss(some_logits.float(), some_labels)
    step_losses(model)
    assert (loss.ratio < 1).any()


@pytest.mark.slow
def test_compiles_without_a_graph_break(some_logits, some_labels):
    x = some_logits.float().requires_grad_()
    plain, other = EqualizedFocalLoss(5), EqualizedFocalLoss(5)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        want, got = plain(x, some_labels, 2.0), compiled(x, some_labels, 2.0)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(want, x))
        plain.step()
        other.step()
        torch.testing.assert_close(other.ratio, plain.ratio)


def test_bad_settings():
    x, labels = torch.zeros(2, 3), torch.tensor([0, 3])
    with pytest.raises(ConfigError, match="gamma"):
        equalized_focal_loss(x, labels, torch.ones(3), gamma=0)
    with pytest.raises(ConfigError, match="scale = -1"):
        equalized_focal_loss(x, labels, torch.ones(3), scale=-1)
    with pytest.raises(ConfigError, match="ratio"):
        equalized_focal_loss(x, labels, torch.ones(4))
    with pytest.raises(ConfigError, match="ratio"):
        equalized_focal_loss(x, labels, torch.tensor([0.0, 1.0, 1.5]))
    with pytest.raises(ConfigError, match="scale"):
        EqualizedFocalLoss.Config(scale=-1.0)
    with pytest.raises(ConfigError, match="num_classes"):
        EqualizedFocalLoss(0)


@pytest.mark.parametrize("prior", [0.001, 0.01, 0.3, 0.9])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (None, 0.5), (0.7, 5.0)])
def test_the_first_ratio_is_that_of_a_head_at_its_prior(prior, alpha, gamma):
    positives = torch.tensor([40, 3, 1, 0])
    labels = torch.full((2000,), 4)
    labels[: positives.sum()] = torch.arange(4).repeat_interleave(positives)
    logits = torch.full((2000, 4), prior, dtype=torch.float64).logit()
    loss = EqualizedFocalLoss(4, alpha=alpha, gamma=gamma, backend="plain").double()
    loss(logits, labels)
    loss.step()
    expected = loss.pos_grad / loss.neg_grad
    found = first_gradient_ratio(prior, positives, 2000 - positives, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_first_ratio_for_a_small_prior_is_its_rule_of_thumb():
    prior, alpha, gamma = 1e-5, 0.25, 2.0
    negatives = 1e9
    positives = negatives * (gamma + 1) * prior ** (gamma + 1) * (1 - alpha) / alpha
    found = first_gradient_ratio(prior, torch.tensor([positives]), torch.tensor([negatives]))
    assert found.item() == pytest.approx(1, rel=1e-3)
    with pytest.raises(ConfigError, match="prior = 0"):
        first_gradient_ratio(0, torch.ones(1), torch.ones(1))
    with pytest.raises(DataError, match=r"\(1,\), negatives \(2,\)"):
        first_gradient_ratio(0.1, torch.ones(1), torch.ones(2))
