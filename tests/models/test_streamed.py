"""The streamed head against the ordinary one: loss, gradients, statistics, best pairs."""

from __future__ import annotations

import types
from functools import partial
from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from tests.components import build_loss, losses_with
from torch import Tensor, nn

from hyperfocal.losses import (
    EqualizedFocalLoss,
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    StreamableLoss,
)
from hyperfocal.losses._core.memory import GradientRatioLoss
from hyperfocal.models import streamed, streamed_parts
from hyperfocal.models.streamed import streamed_loss
from hyperfocal.models.streamed_parts import Pieces
from hyperfocal.models.streamed_topk import streamed_topk
from hyperfocal.ops import stable_topk
from hyperfocal.types import ConfigError, DataError

K = 23
SIZES = ((9, 7), (4, 3), (1, 1))
SPLITS = [60, 700, 1 << 22]
"""Logits at once: one image and few categories, some of both, everything."""
LOSSES = [
    *(partial(build_loss, config, K) for config in losses_with(StreamableLoss)),
    lambda: SigmoidFocalLoss(alpha=None, gamma=0.5),
    lambda: SigmoidCrossEntropyLoss(0.75),
    lambda: EqualizedFocalLoss(K, ratio_of="cross_entropy"),
]


@pytest.fixture(autouse=True)
def _narrow_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few channels make a part, so that small problems have many parts."""
    monkeypatch.setattr(streamed_parts, "LEAST_CHANNELS", 8)


def with_ratio(loss: nn.Module) -> nn.Module:
    """The loss; one that keeps gradient ratios with a different one of each category."""
    if isinstance(loss, GradientRatioLoss):
        loss.ratio.copy_(torch.linspace(0, 1, K))
    return loss


class Problem:
    """A head over three levels, its inputs, and labels."""

    def __init__(
        self,
        anchors: int = 3,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.channels_last,
        bias: bool = True,
    ) -> None:
        g = torch.Generator().manual_seed(0)
        rand = partial(torch.randn, generator=g, dtype=dtype)
        self.features = [
            rand(2, 8, h, w).to(memory_format=memory_format).requires_grad_() for h, w in SIZES
        ]
        self.weight = (rand(anchors * K, 8, 3, 3) * 0.3).requires_grad_()
        self.bias = (rand(anchors * K) - 2).requires_grad_() if bias else None
        priors = anchors * sum(h * w for h, w in SIZES)
        labels = torch.randint(-1, K + 1, (2, priors), generator=g)
        background = torch.rand(2, priors, generator=g) < 0.7
        self.labels = torch.where(background, K, labels)

    @property
    def inputs(self) -> list[Tensor]:
        given = (self.weight, self.bias, *self.features)
        return [t for t in given if t is not None and t.requires_grad]

    def logits(self) -> Tensor:
        maps = [F.conv2d(f, self.weight, self.bias, padding=1) for f in self.features]
        return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, K) for m in maps], dim=1)

    def plain(self, loss: nn.Module, normalizer: float | Tensor) -> Tensor:
        logits = self.logits()
        if not isinstance(normalizer, Tensor) or normalizer.numel() == 1:
            return loss(logits, self.labels, normalizer)
        images = zip(logits, self.labels, normalizer, strict=True)
        return torch.stack([loss(*image) for image in images]).sum()

    def streamed(self, loss: nn.Module, normalizer: float | Tensor = 1.0, **kwargs) -> Tensor:
        return streamed_loss(
            self.features, self.weight, self.bias, self.labels, loss, K, normalizer, **kwargs
        )


def assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * want.abs().max().item())


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("at_once", SPLITS)
@pytest.mark.parametrize("normalizer", [5.0, torch.tensor(5.0), torch.tensor([3.0, 7.0])])
@pytest.mark.parametrize("anchors", [1, 3])
@pytest.mark.parametrize("make", LOSSES)
def test_loss_gradients_and_statistics_of_the_ordinary_head(make, anchors, normalizer, at_once):
    problem, loss, want_loss = Problem(anchors), with_ratio(make()), with_ratio(make())
    want = problem.plain(want_loss, normalizer)
    got = problem.streamed(loss, normalizer, logits_at_once=at_once)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=0)
    grads = torch.autograd.grad(2 * got, problem.inputs)
    for grad, want_grad in zip(grads, torch.autograd.grad(2 * want, problem.inputs), strict=True):
        assert_close(grad, want_grad, 1e-5)
    for name in ("pending_pos", "pending_neg"):
        if hasattr(loss, name):
            assert (getattr(loss, name) > 0).any()
            assert_close(getattr(loss, name), getattr(want_loss, name), 1e-5)


@pytest.mark.parametrize("at_once", SPLITS)
@pytest.mark.parametrize("bias", [True, False])
def test_exact_in_float64(at_once, bias):
    problem = Problem(dtype=torch.float64, bias=bias, memory_format=torch.contiguous_format)
    want = problem.plain(SigmoidFocalLoss(), 3.0)
    got = problem.streamed(SigmoidFocalLoss(), 3.0, logits_at_once=at_once)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    grads = torch.autograd.grad(got, problem.inputs)
    for grad, want_grad in zip(grads, torch.autograd.grad(want, problem.inputs), strict=True):
        assert_close(grad, want_grad, 1e-11)


@pytest.mark.parametrize("frozen", ["weight", "bias", "features", "one level"])
def test_what_is_frozen_gets_no_gradient(frozen):
    problem = Problem()
    stopped = {
        "weight": [problem.weight],
        "bias": [problem.bias],
        "features": problem.features,
        "one level": problem.features[:1],
    }[frozen]
    for tensor in stopped:
        tensor.requires_grad_(False)
    problem.streamed(SigmoidFocalLoss(), 5.0).backward()
    assert all(tensor.grad is None for tensor in stopped)
    wants = torch.autograd.grad(problem.plain(SigmoidFocalLoss(), 5.0), problem.inputs)
    for tensor, want in zip(problem.inputs, wants, strict=True):
        assert_close(tensor.grad, want, 1e-5)


def test_without_gradients_the_value_and_the_statistics(monkeypatch):
    problem, loss = Problem(), EqualizedFocalLoss(K)
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(streamed._Gradients, "add", None)  # nothing goes back
        value = problem.streamed(loss, 5.0, logits_at_once=700)
    assert not value.requires_grad
    want_loss = EqualizedFocalLoss(K)
    torch.testing.assert_close(value, problem.plain(want_loss, 5.0).detach(), rtol=1e-5, atol=0)
    assert_close(loss.pending_neg, want_loss.pending_neg, 1e-5)
    loss.eval()
    pending = loss.pending_neg.clone()
    problem.streamed(loss, 5.0)
    assert loss.pending_neg.equal(pending)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    problem = Problem()
    with torch.autocast("cpu", dtype=dtype):
        want = problem.plain(SigmoidFocalLoss(), 5.0)
        got = problem.streamed(SigmoidFocalLoss(), 5.0, logits_at_once=700)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=2e-2, atol=0)
    scale = 1024  # loss scaling
    wants = torch.autograd.grad(scale * want, problem.inputs)
    for grad, want_grad, tensor in zip(
        torch.autograd.grad(scale * got, problem.inputs), wants, problem.inputs, strict=True
    ):
        assert grad.dtype == tensor.dtype
        assert (grad - want_grad).norm() <= 0.03 * want_grad.norm()


def test_weights_train_through_a_network_below():
    torch.manual_seed(0)
    tower, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2 * K, 3, padding=1)
    images, labels = torch.randn(2, 3, 6, 5), torch.randint(-1, K + 1, (2, 60))
    loss = SigmoidFocalLoss()
    want = loss(last(tower(images)).permute(0, 2, 3, 1).reshape(2, -1, K), labels, 9.0)
    want.backward()
    wants = [p.grad for p in (*tower.parameters(), *last.parameters())]
    tower.zero_grad()
    last.zero_grad()
    streamed_loss([tower(images)], last.weight, last.bias, labels, loss, K, 9.0).backward()
    for p, grad in zip((*tower.parameters(), *last.parameters()), wants, strict=True):
        assert_close(p.grad, grad, 1e-5)


def test_two_backward_passes_and_no_second_derivative():
    problem = Problem()
    loss = problem.streamed(SigmoidFocalLoss(), 5.0)
    first = torch.autograd.grad(loss, problem.inputs, retain_graph=True)
    kept = [g.clone() for g in first]
    for grad in first:
        grad.zero_()
    second = torch.autograd.grad(loss, problem.inputs)
    assert all(a.equal(b) for a, b in zip(second, kept, strict=True))
    loss = problem.streamed(SigmoidFocalLoss(), 5.0)
    grads = torch.autograd.grad(loss, problem.inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="can't be differentiated twice"):
        grads[0].sum().backward()


def test_pieces_follow_the_device_and_its_memory(monkeypatch):
    def pieces(gibibytes, dtype=torch.bfloat16, logits=None):
        properties = types.SimpleNamespace(total_memory=gibibytes << 30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        return streamed_parts.pieces_for(torch.device("cuda"), dtype, logits)

    assert pieces(24).logits == 24 * 2**30 // 160 // 2
    assert pieces(24, torch.float32).logits * 2 == pieces(24).logits
    assert pieces(8).logits * 10 == pytest.approx(pieces(80).logits, rel=1e-6)
    assert pieces(800).logits == pieces(400).logits == 2**28
    assert pieces(80, logits=77).logits == 77
    assert pieces(80).most_channels >= 9 * 1203  # LVIS in one run
    cpu = streamed_parts.pieces_for(torch.device("cpu"), torch.float32)
    assert cpu.logits == streamed_parts.LOGITS_AT_ONCE
    assert cpu.most_channels < pieces(8).most_channels


@pytest.mark.parametrize("anchors", [1, 3])
@pytest.mark.parametrize(
    "pieces", [Pieces(10**6, 10**4, 10**4), Pieces(60, 10**4, 10**4), Pieces(60, 8, 12)]
)
def test_the_same_in_pieces_of_any_size(monkeypatch, anchors, pieces):
    monkeypatch.setattr(streamed, "pieces_for", lambda *_: pieces)
    problem, loss = Problem(anchors), with_ratio(EqualizedFocalLoss(K))
    want, got = problem.plain(loss, 3.0), problem.streamed(loss, 3.0)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=0)
    pairs = zip(*(torch.autograd.grad(x, problem.inputs) for x in (got, want)), strict=True)
    for grad, want_grad in pairs:
        assert_close(grad, want_grad, 1e-5)


def test_weights_are_copied_only_where_a_run_has_them_in_several_places():
    weight = torch.randn(3 * K, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    maps = [torch.randn(1, 4, 6, 5)]
    cases = ((3, 10**4, False), (1, 10**4, False), (1, 4, False), (3, 4, True))
    for anchors, length, copied in cases:
        head = streamed_parts.Head(weight[: anchors * K], None, K, torch.float32)
        channels = anchors * min(length, K)
        for run in streamed_parts.runs(maps, head, Pieces(1, channels, channels)):
            start = run.categories.start
            here = run.weight.data_ptr() == head.weight[start:].data_ptr()
            assert here != copied
            assert run.weight.equal(head.share(head.weight, run.categories).flatten(0, 1))


def test_no_run_has_more_logits_than_allowed(monkeypatch):
    problem, seen = Problem(anchors=1), []
    rows = streamed_parts.Run.rows

    def watched(run, logits):
        seen.append(logits.numel())
        return rows(run, logits)

    monkeypatch.setattr(streamed_parts.Run, "rows", watched)
    problem.streamed(SigmoidFocalLoss(), logits_at_once=9 * 7 * 8)
    assert max(seen) <= 9 * 7 * 8
    assert sum(seen) == 2 * K * sum(h * w for h, w in SIZES)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda p: setattr(p, "labels", p.labels[:, 1:]), DataError, "labels"),
        (lambda p: setattr(p, "labels", p.labels.float()), DataError, "labels"),
        (lambda p: p.labels[0].fill_(K + 1), DataError, f"contain {K + 1}"),
        (lambda p: setattr(p, "weight", p.weight[1:]), DataError, "weight"),
        (lambda p: setattr(p, "bias", p.bias[1:]), DataError, "bias"),
        (lambda p: setattr(p, "features", []), DataError, "features"),
        (lambda p: setattr(p, "features", [p.features[0][:, 1:]]), DataError, "features"),
    ],
)
def test_what_does_not_fit_is_named(change, error, message):
    problem = Problem()
    change(problem)
    with pytest.raises(error, match=message):
        problem.streamed(SigmoidFocalLoss())


@pytest.mark.parametrize("normalizer", [0.0, -1.0, torch.ones(3), torch.ones(2, 1)])
def test_impossible_normalizer(normalizer):
    with pytest.raises(ConfigError, match="normalizer"):
        Problem().streamed(SigmoidFocalLoss(), normalizer)


# ---------------------------------------------------------------- inference


def best_of_all(problem: Problem, k: int, least: float) -> list[list[tuple[Tensor, Tensor]]]:
    found = []
    for feature in problem.features:
        logits = F.conv2d(feature, problem.weight, problem.bias, padding=1)
        level = []
        for flat in logits.permute(0, 2, 3, 1).flatten(1).detach():
            candidates = (flat > least).nonzero().squeeze(1)
            index = candidates[stable_topk(flat[candidates], k)]
            level.append((index, flat[index]))
        found.append(level)
    return found


@pytest.mark.parametrize("at_once", SPLITS)
@pytest.mark.parametrize("least", [-torch.inf, 0.0, 1e9])
@pytest.mark.parametrize("k", [1, 50, 100_000])
def test_same_pairs_as_all_logits_at_once(k, least, at_once):
    problem = Problem(dtype=torch.float64)  # so that no two logits are within rounding
    found = streamed_topk(
        problem.features, problem.weight, problem.bias, K, k, least, logits_at_once=at_once
    )
    wants = best_of_all(problem, k, least)
    for got, want in zip(chain(*found), chain(*wants), strict=True):
        assert got.index.equal(want[0])
        torch.testing.assert_close(got.logits, want[1])


@pytest.mark.parametrize("at_once", SPLITS)
def test_ties_go_to_the_lower_prior_then_the_lower_category(at_once):
    problem = Problem()
    weight, bias = torch.zeros_like(problem.weight), torch.zeros_like(problem.bias)
    for level in streamed_topk(problem.features, weight, bias, K, 40, logits_at_once=at_once):
        for pairs in level:
            assert pairs.index.tolist() == list(range(40))


def test_best_pairs_of_a_head_that_does_not_fit():
    problem = Problem()
    with pytest.raises(DataError, match="weight"):
        streamed_topk(problem.features, problem.weight[1:], problem.bias, K, 5)
