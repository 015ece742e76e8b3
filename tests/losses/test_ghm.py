"""GHM for classification and for boxes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import binary_cross_entropy_with_logits

from hyperfocal.losses import (
    GHMClassificationLoss,
    GHMRegressionLoss,
    ghm_classification_loss,
    ghm_regression_loss,
)
from hyperfocal.types import ConfigError


def bin_counts(size, bins):
    return torch.bincount((size * bins).long().clamp(max=bins - 1).flatten(), minlength=bins)


def written_out(x, y, counts, smoothed, bins=30):
    """Mean of BCE times N / (S n), from probabilities; every element counts."""
    size = (x.sigmoid() - y).abs()
    index = (size * bins).long().clamp(max=bins - 1)
    n = (counts > 0).sum()
    weight = x.numel() / (smoothed[index] * n)
    return (weight * binary_cross_entropy_with_logits(x, y, reduction="none")).mean()


def test_each_filled_bin_adds_its_mean(some_logits, some_labels, one_hot):
    kept = some_labels >= 0
    x, y = some_logits[kept], one_hot(some_labels, 5)[kept]
    counts = bin_counts((x.sigmoid() - y).abs(), 30).double()
    got = ghm_classification_loss(some_logits, some_labels, reduction="mean")
    torch.testing.assert_close(got, written_out(x, y, counts, counts))
    bce = binary_cross_entropy_with_logits(x, y, reduction="none")
    index = ((x.sigmoid() - y).abs() * 30).long()
    means = [bce[index == m].mean() for m in range(30) if (index == m).any()]
    torch.testing.assert_close(got, torch.stack(means).mean())


def test_soft_targets_are_binned_by_their_own_error(some_logits):
    soft = torch.rand(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = bin_counts((some_logits.sigmoid() - soft).abs(), 30).double()
    got = ghm_classification_loss(some_logits, soft, reduction="mean")
    torch.testing.assert_close(got, written_out(some_logits, soft, counts, counts))


def test_momentum_smooths_over_steps():
    loss = GHMClassificationLoss.Config(bins=10, momentum=0.6).build(3)
    smoothed = torch.zeros(10)
    filled = set()
    for seed, place in enumerate((0.0, 3.0, -1.0)):  # each step fills other bins
        x = 0.5 * torch.randn(30, 3, generator=torch.Generator().manual_seed(seed)) + place
        labels = torch.arange(30) % 4
        y = torch.nn.functional.one_hot(labels, 4)[:, :3].float()
        counts = bin_counts((x.sigmoid() - y).abs(), 10)
        smoothed = torch.where(counts > 0, 0.6 * smoothed + 0.4 * counts, smoothed)
        filled.add(tuple(counts > 0))
        torch.testing.assert_close(
            loss(x, labels, 17.0), written_out(x, y, counts, smoothed, bins=10)
        )
        loss.step()
        torch.testing.assert_close(loss.counts, smoothed)
        assert (loss.pending == 0).all()
    assert len(filled) == 3
    # In evaluation the state is used as it is; bins that it doesn't know, by this call's counts.
    x = 4 * torch.randn(30, 3, generator=torch.Generator().manual_seed(3))
    counts = bin_counts((x.sigmoid() - y).abs(), 10)
    known = torch.where(smoothed > 0, smoothed, counts.float())
    assert ((smoothed > 0) & (counts > 0)).any()
    torch.testing.assert_close(loss.eval()(x, labels), written_out(x, y, counts, known, bins=10))
    torch.testing.assert_close(loss.counts, smoothed)


def test_state_freezes_in_eval_and_travels_with_pending_counts(some_logits, some_labels):
    x = some_logits.float()
    loss = GHMClassificationLoss()
    before_any = copy.deepcopy(loss).eval()
    torch.testing.assert_close(  # nothing known yet: this call's own counts
        before_any(x, some_labels), ghm_classification_loss(x, some_labels, reduction="mean")
    )
    loss(x, some_labels)
    again = GHMClassificationLoss()
    again.load_state_dict(loss.state_dict())
    for each in (loss, again):
        each.step()
        each.eval()
        each(x, some_labels)
        each.step()
    assert again.counts.equal(loss.counts)
    assert loss.counts.sum() == (some_labels >= 0).sum() * 5 * 0.25


def test_calls_of_one_step_add_up(some_logits, some_labels):
    whole, parts = GHMClassificationLoss(), GHMClassificationLoss()
    whole(some_logits, some_labels)
    for part in (slice(0, 5), slice(5, 12)):
        parts(some_logits[part], some_labels[part])
    whole.step()
    parts.step()
    assert whole.counts.equal(parts.counts)


def test_regression_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.randn(2, 40, 4, dtype=torch.float64, generator=generator) * 0.1
    d = pred - target
    length = (d**2 + 0.02**2).sqrt()
    counts = bin_counts(d.abs() / length, 10).double()
    index = (d.abs() / length * 10).long().clamp(max=9)
    want = ((length - 0.02) / (counts[index] * (counts > 0).sum())).sum()
    got = ghm_regression_loss(pred, target, reduction="mean")
    torch.testing.assert_close(got, want)
    assert gradcheck(lambda p: ghm_regression_loss(p, target), pred.requires_grad_())
    wide = ghm_regression_loss(pred, target, mu=0.5, bins=4, reduction="mean")
    torch.testing.assert_close(GHMRegressionLoss(0.5, 4, momentum=0)(pred, target), wide)
    assert not torch.isclose(wide, want)
    loss = GHMRegressionLoss(momentum=0)
    torch.testing.assert_close(loss(pred, target, 9.0), want)
    loss.step()
    torch.testing.assert_close(loss.counts, counts.float())


def test_regression_keeps_small_errors_and_leaves_out_what_weighs_nothing():
    pred = torch.tensor([[1e-6, 1e4, -1e4, 0.0]], requires_grad=True)
    target = torch.zeros(1, 4)
    value = ghm_regression_loss(pred, target, bins=1, reduction="none")
    assert value[0, 0].item() == pytest.approx(1e-12 / 0.04, rel=1e-4)
    (grad,) = torch.autograd.grad(value.sum(), pred)
    assert torch.isfinite(grad).all()
    two = torch.cat([pred, pred + 5]).detach()
    loss = GHMRegressionLoss(momentum=0)
    torch.testing.assert_close(
        loss(two, torch.zeros(2, 4), weight=torch.tensor([1.0, 0.0])),
        GHMRegressionLoss(momentum=0)(pred, target),
    )


def test_bad_settings():
    with pytest.raises(ConfigError, match="bins = 0"):
        ghm_classification_loss(torch.zeros(1, 2), torch.zeros(1).long(), bins=0)
    with pytest.raises(ConfigError, match="momentum"):
        GHMClassificationLoss(momentum=1.0)
    with pytest.raises(ConfigError, match="bins"):
        GHMClassificationLoss.Config(bins=0)
    with pytest.raises(ConfigError, match="mu"):
        GHMRegressionLoss(mu=0)
    with pytest.raises(ConfigError, match="mu"):
        ghm_regression_loss(torch.zeros(1, 4), torch.zeros(1, 4), mu=0)
