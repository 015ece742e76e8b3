"""Softmax focal loss, Seesaw, and balanced group softmax."""

from __future__ import annotations

import copy
import math

import mpmath
import pytest
import torch
from torch.nn.functional import cross_entropy

from hyperfocal.losses import (
    BalancedGroupSoftmaxLoss,
    CategoryGroups,
    SeesawLoss,
    SoftmaxFocalLoss,
    bags_scores,
    balanced_group_softmax_loss,
    seesaw_loss,
    seesaw_scores,
    softmax_focal_loss,
    softmax_prior_bias,
)
from hyperfocal.types import CategoryCounts, ConfigError, DataError

# ---------------------------------------------------------------- softmax focal


def test_two_equal_categories():
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(softmax_focal_loss(x, torch.tensor([0])).sum(), x)
    assert grad.flatten().tolist() == pytest.approx([-0.298287, 0.298287], abs=1e-6)


def test_gamma_zero_is_cross_entropy(some_logits, some_labels):
    labels = some_labels.clamp(max=4)
    got = softmax_focal_loss(some_logits, labels, gamma=0)
    want = cross_entropy(some_logits, labels, ignore_index=-1, reduction="none")
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_value_and_gradient_are_the_formulas(some_logits, gamma):
    labels = torch.arange(12) % 5
    z = torch.tensor([0.25, 1.0, 2.0, 0.0, 3.0], dtype=torch.float64)
    x = some_logits.clone().requires_grad_()
    value = softmax_focal_loss(x, labels, alpha=z, gamma=gamma)
    (grad,) = torch.autograd.grad(value.sum(), x)
    q = some_logits.softmax(-1)
    y = torch.nn.functional.one_hot(labels, 5)
    q_c = (q * y).sum(-1, keepdim=True)
    z_c = z[labels][:, None]
    torch.testing.assert_close(value[:, None], -z_c * (1 - q_c) ** gamma * q_c.log())
    bracket = gamma * (1 - q_c) ** (gamma - 1) * q_c * q_c.log() - (1 - q_c) ** gamma
    torch.testing.assert_close(grad, z_c * bracket * (y - q))


def test_a_number_alpha_sets_the_background_apart(some_logits):
    labels = torch.arange(12) % 5
    z = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.7], dtype=torch.float64)
    want = softmax_focal_loss(some_logits, labels, alpha=z)
    got = softmax_focal_loss(some_logits, labels, alpha=0.3, background=4)
    torch.testing.assert_close(got, want)
    module = SoftmaxFocalLoss(alpha=0.3, background=4)
    torch.testing.assert_close(module(some_logits, labels, 2.0), want.sum() / 2)


def test_digits_survive_when_the_true_category_is_nearly_certain(exact):
    x = torch.tensor([[0.0, -14.0, -17.5], [30.0, 0.5, 3.0], [-40.0, 5.0, 5.0], [9999.0, 9980, 0]])
    leaf = x.clone().requires_grad_()
    value = softmax_focal_loss(leaf, torch.zeros(4).long())
    (grad,) = torch.autograd.grad(value.sum(), leaf)
    true = []
    for a, *others in x.tolist():
        rest = mpmath.log(sum(mpmath.exp(mpmath.mpf(b)) for b in others))
        true.append(exact.focal(mpmath.mpf(a) - rest, 2))
    assert exact.worst_error(value, [v for v, _ in true]) <= 4e-6
    assert exact.worst_error(grad[:, 0], [d for _, d in true]) <= 4e-6


def test_prior_bias():
    bias = softmax_prior_bias(80, 0.01)
    assert bias == pytest.approx(8.97715, abs=1e-5)
    q = torch.cat([torch.zeros(80), torch.tensor([bias])]).double().softmax(0)
    assert q[:80].sum().item() == pytest.approx(0.01)


def test_softmax_focal_bad_settings():
    x, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ConfigError, match="background"):
        softmax_focal_loss(x, labels, alpha=0.25)
    with pytest.raises(ConfigError, match="background"):
        softmax_focal_loss(x, labels, alpha=torch.ones(3), background=2)
    with pytest.raises(ConfigError, match="background = 3"):
        softmax_focal_loss(x, labels, alpha=0.25, background=3)
    with pytest.raises(ConfigError, match="alpha"):
        softmax_focal_loss(x, labels, alpha=2.0, background=2)
    with pytest.raises(ConfigError, match="gamma"):
        softmax_focal_loss(x, labels, gamma=-1)
    with pytest.raises(ConfigError, match="prior"):
        softmax_prior_bias(80, 0)
    with pytest.raises(DataError, match="two logits"):
        softmax_focal_loss(torch.zeros(2, 1), torch.zeros(2).long())


# ---------------------------------------------------------------- Seesaw


def written_out_seesaw(x, labels, counts, p=0.8, q=2.0, eps=0.01):
    out = []
    scores = x.softmax(-1)
    for row, i in enumerate(labels.tolist()):
        s = torch.ones(x.shape[1], dtype=x.dtype)
        for j in range(x.shape[1]):
            if counts[i] > counts[j]:
                s[j] *= (counts[j] / counts[i]) ** p
            if scores[row, j] > scores[row, i]:
                s[j] *= (scores[row, j] / scores[row, i].clamp(min=eps)).clamp(min=1) ** q
        out.append(-x[row, i] + (s * x[row].exp()).sum().log())
    return torch.stack(out)


def test_seesaw_is_its_formula(some_logits):
    labels = torch.arange(12) % 5
    counts = torch.tensor([100, 10, 1, 40, 7]).double()
    got = seesaw_loss(some_logits, labels, counts)
    torch.testing.assert_close(got, written_out_seesaw(some_logits, labels, counts))


def test_seesaw_golden_factors():
    counts = torch.tensor([100, 10])
    x = torch.zeros(1, 2, dtype=torch.float64)  # equal scores: mitigation alone
    got = seesaw_loss(x, torch.tensor([0]), counts)
    assert got.item() == pytest.approx(math.log(1 + 0.158489), abs=1e-6)
    x = torch.tensor([[0.3, 0.6, 0.1]], dtype=torch.float64).log()  # compensation alone
    got = seesaw_loss(x, torch.tensor([0]), torch.ones(3))
    assert got.item() == pytest.approx(-math.log(0.3 / (0.3 + 4 * 0.6 + 0.1)), abs=1e-9)


def test_seesaw_gradient_is_cross_entropys_with_constant_factors(some_logits):
    labels = torch.arange(12) % 5
    counts = torch.tensor([100, 10, 1, 40, 7])
    x = some_logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(seesaw_loss(x, labels, counts).sum(), x)
    y = torch.nn.functional.one_hot(labels, 5)
    # On the wrong logits softmax(x + log S) / softmax(x) is S up to a factor a row.
    q, adjusted = some_logits.softmax(-1), grad + y
    torch.testing.assert_close(adjusted.sum(-1), torch.ones(12).double())
    factor = adjusted / q
    factor = factor / (factor * y).sum(-1, keepdim=True)
    log_n = counts.double().log()
    true = q.gather(1, labels[:, None])
    want = torch.minimum(log_n - log_n[labels][:, None], torch.zeros(12, 5)).exp() ** 0.8
    want = want * (q / true.clamp(min=0.01)).clamp(min=1) ** 2
    torch.testing.assert_close(factor, torch.where(y == 1, 1.0, want))


def test_seesaw_module_uses_the_counts_of_the_steps_before(some_labels):
    x = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    loss = SeesawLoss(5)
    is_object = (some_labels >= 0) & (some_labels < 5)
    counts = torch.bincount(some_labels[is_object], minlength=5)
    before = torch.tensor([40, 30, 9, 2, 0])
    loss.counts.copy_(before)
    value = loss(x, some_labels, 3.0)
    classes = seesaw_loss(x[is_object, :5], some_labels[is_object], before)
    kept = some_labels >= 0
    objectness = cross_entropy(x[kept, 5:], (some_labels[kept] == 5).long(), reduction="sum")
    torch.testing.assert_close(value, (classes.sum() + objectness) / 3)
    torch.testing.assert_close(loss(x[:0], some_labels[:0]), torch.tensor(0.0))  # adds nothing
    assert loss.counts.tolist() == before.tolist()
    again = copy.deepcopy(loss)
    loss.step()
    counts += before
    assert loss.counts.tolist() == counts.tolist()
    assert loss.pending.tolist() == [0] * 5
    restored = SeesawLoss(5)
    restored.load_state_dict(again.state_dict())
    restored.step()
    assert restored.counts.tolist() == counts.tolist()
    loss.eval()
    loss(x, some_labels)
    assert loss.pending.tolist() == [0] * 5


def test_seesaw_config_sets_its_factors(some_labels):
    labels = some_labels.clamp(min=0)
    x = 3 * torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([100, 10, 1, 40, 7, 1000])
    for settings in ({"p": 0.0, "q": 0.0}, {"p": 0.3}, {"q": 1.0}, {"eps": 0.5}):
        loss = SeesawLoss.Config(objectness=False, **settings).build(5)
        loss.counts.copy_(counts)
        want = seesaw_loss(x, labels, counts, **settings).sum()
        torch.testing.assert_close(loss(x, labels), want)
        assert not torch.isclose(want, seesaw_loss(x, labels, counts).sum())
    plain = SeesawLoss.Config(p=0.0, q=0.0, objectness=False).build(5)
    plain.counts.copy_(counts)
    torch.testing.assert_close(plain(x, labels), cross_entropy(x, labels, reduction="sum"))


def test_seesaw_without_objectness_counts_the_background(some_labels):
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    loss = SeesawLoss(5, objectness=False)
    kept = some_labels >= 0
    counts = torch.bincount(some_labels[kept], minlength=6)
    loss(x, some_labels)
    loss.step()
    assert loss.counts.tolist() == counts.tolist()
    torch.testing.assert_close(
        loss(x, some_labels), seesaw_loss(x[kept], some_labels[kept], counts).sum()
    )


def test_seesaw_without_objects_and_scores():
    x = torch.randn(4, 7, requires_grad=True)
    (grad,) = torch.autograd.grad(SeesawLoss(5)(x, torch.full((4,), 5)), x)
    assert (grad[:, :5] == 0).all()
    assert (grad[:, 5:] != 0).all()
    scores = seesaw_scores(x)
    torch.testing.assert_close(scores, x[:, :5].softmax(-1) * x[:, 5:].softmax(-1)[:, :1])


def test_seesaw_bad_settings():
    x, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ConfigError, match="counts"):
        seesaw_loss(x, labels, torch.ones(4))
    with pytest.raises(ConfigError, match="p = -1"):
        seesaw_loss(x, labels, torch.ones(3), p=-1)
    with pytest.raises(ConfigError, match="eps"):
        seesaw_loss(x, labels, torch.ones(3), eps=0)
    with pytest.raises(DataError, match="5"):
        SeesawLoss(3)(torch.zeros(2, 4), labels)


# ---------------------------------------------------------------- BAGS

GROUPS = CategoryGroups.from_counts([5, 5000, 10, 99, 3, 100])


def test_groups_are_cut_like_the_authors():
    assert GROUPS.group_of == (0, 3, 1, 1, 0, 2)
    assert GROUPS.columns == ((0, 4), (2, 3), (5,), (1,))
    assert GROUPS.num_logits == 6 + 1 + 5
    assert GROUPS.slices()[0] == slice(2, 5)
    assert GROUPS.slices()[-1].stop == GROUPS.num_logits


def written_out_bags(x, labels, columns, slices):
    """With every other row selected (beta large)."""
    kept = labels >= 0
    x, labels = x[kept], labels[kept]
    total = cross_entropy(x[:, :2], (labels < 6).long())
    for members, part in zip(columns, slices, strict=True):
        local = torch.tensor(
            [members.index(c) if c in members else len(members) for c in labels.tolist()]
        )
        if (local < len(members)).any():
            total = total + cross_entropy(x[:, part], local)
    return total


def test_bags_with_all_others_selected():
    x = torch.randn(20, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 4, 2, 5, 6, 6, 6, -1, 6, 3] * 2)  # nothing of group 3
    got = balanced_group_softmax_loss(x, labels, GROUPS, beta=1e6)
    torch.testing.assert_close(got, written_out_bags(x, labels, GROUPS.columns, GROUPS.slices()))
    torch.testing.assert_close(BalancedGroupSoftmaxLoss(GROUPS, beta=1e6)(x, labels), got)


def test_bags_selects_at_most_beta_others_for_each_member():
    x = torch.zeros(100, 12, requires_grad=True)
    labels = torch.full((100,), 6)
    labels[:3] = 1  # three of group 3
    loss = balanced_group_softmax_loss(x, labels, GROUPS, beta=8)
    (grad,) = torch.autograd.grad(loss, x)
    touched = (grad[:, GROUPS.slices()[3]] != 0).any(-1)
    assert touched[:3].all()
    assert touched[3:].sum() == 24
    assert (grad[:, GROUPS.slices()[0]] == 0).all()  # no member: no loss
    assert (grad[:, :2] != 0).all()
    again = [
        balanced_group_softmax_loss(
            torch.randn(100, 12, generator=torch.Generator().manual_seed(1)),
            labels,
            GROUPS,
            generator=torch.Generator().manual_seed(5),
        )
        for _ in range(2)
    ]
    assert again[0] == again[1]


def test_bags_config_sets_groups_and_sampling():
    counts = CategoryCounts(images=(1, 9, 2, 4), instances=(5, 5000, 10, 7), num_images=9)
    loss = BalancedGroupSoftmaxLoss.Config(cuts=(7,), beta=3).build(4, counts)
    assert loss.groups == CategoryGroups.from_counts([5, 5000, 10, 7], cuts=(7,))
    assert loss.groups.group_of == (0, 1, 1, 1)
    x = torch.zeros(50, loss.num_logits, requires_grad=True)
    labels = torch.full((50,), 4)
    labels[:2] = 0  # two of the first group: six others are selected for it
    (grad,) = torch.autograd.grad(loss(x, labels), x)
    assert (grad[:, loss.groups.slices()[0]] != 0).any(-1).sum() == 2 + 6


def test_bags_scores_put_categories_back_in_order():
    x = torch.randn(7, 12, dtype=torch.float64)
    scores = bags_scores(x, GROUPS)
    others = x[:, :2].softmax(-1)[:, 1]
    assert scores.shape == (7, 6)
    first = 2  # the groups' logits follow each other, each with "others" last
    for members in GROUPS.columns:
        own = x[:, first : first + len(members) + 1].softmax(-1)
        for n, category in enumerate(members):
            torch.testing.assert_close(scores[:, category], own[:, n] * others)
        first += len(members) + 1
    assert first == 12


def test_bags_extremes_empty_and_ignored():
    x = torch.tensor([[1e4, -1e4] * 6, [-1e4, 1e4] * 6]).half().requires_grad_()
    loss = balanced_group_softmax_loss(x, torch.tensor([0, 6]), GROUPS)
    (grad,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()
    assert balanced_group_softmax_loss(torch.zeros(0, 12), torch.zeros(0).long(), GROUPS) == 0
    assert balanced_group_softmax_loss(torch.zeros(2, 12), torch.tensor([-1, -1]), GROUPS) == 0


def test_bags_gradcheck():
    x = torch.randn(10, 12, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 4, 2, 5, 6, 6, 6, -1, 1, 3])

    def loss(x: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return balanced_group_softmax_loss(x, labels, GROUPS, beta=2, generator=generator)

    assert torch.autograd.gradcheck(loss, x)


def test_bags_bad_input():
    with pytest.raises(DataError, match=r"\(N, 12\)"):
        balanced_group_softmax_loss(torch.zeros(2, 11), torch.tensor([0, 1]), GROUPS)
    with pytest.raises(DataError, match="7"):
        balanced_group_softmax_loss(torch.zeros(2, 12), torch.tensor([0, 7]), GROUPS)
    with pytest.raises(ConfigError, match="cuts"):
        CategoryGroups.from_counts([1, 2], cuts=(10, 5))
    with pytest.raises(ConfigError, match="group_of"):
        CategoryGroups((0, 4), 4)


@pytest.mark.parametrize("objectness", [True, False])
def test_seesaw_module_refuses_impossible_labels_and_counts_nothing_of_them(objectness):
    loss, x = SeesawLoss(5, objectness=objectness), torch.zeros(2, 7 if objectness else 6)
    for bad in ([0, 9], [0, -7], [0.0, 1.0]):
        with pytest.raises(DataError, match="labels"):
            loss(x, torch.tensor(bad))
    with pytest.raises(DataError):
        loss(x, torch.tensor([0, 1, 2]))
    assert loss.pending.sum() == 0
    loss.eval()  # counts nothing more
    want = loss(x, torch.tensor([0, 5]))
    torch.testing.assert_close(loss(x, torch.tensor([0, 5], dtype=torch.uint8)), want)


def test_softmax_labels_have_no_background():
    with pytest.raises(DataError) as error:
        softmax_focal_loss(torch.zeros(2, 5), torch.tensor([0, 5]))
    assert str(error.value).endswith("must be in [-1, 4] (-1 ignored)")


def test_a_number_alpha_is_compiled_and_keeps_its_digits(some_logits):
    labels = torch.arange(len(some_logits)) % 5
    module = SoftmaxFocalLoss(0.3, background=1)
    want = softmax_focal_loss(some_logits, labels, alpha=0.3, background=1, reduction="sum")
    assert module(some_logits, labels) == want
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(some_logits, labels), want)
    assert not module.state_dict()
    weights = torch.rand(5)
    assert SoftmaxFocalLoss(weights).state_dict()["alpha"].equal(weights)
