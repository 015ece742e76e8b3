"""A loss's statistics don't depend on micro-batches, processes or resuming.

The same images in one process or two, in one batch or four micro-batches, interrupted and resumed
or not, with all logits at once or a few categories at a time, give the same state of the loss.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from tests.close import assert_near
from tests.components import DENSE, losses_with
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hyperfocal import losses
from hyperfocal.config import override
from hyperfocal.data import Split, TransformConfig
from hyperfocal.engine.step import Sealed, TrainingForward
from hyperfocal.engine.train import train
from hyperfocal.experiment import Experiment
from hyperfocal.losses._core.memory import GradientRatioLoss
from hyperfocal.models.csp import BatchNorm
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.checkpoint import Checkpoints
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import LossTerms

# Every loss with gradient ratios, and every dense detector. The normaliser of improved_baseline and
# paa depends on the forward pass, as do the IoUs that a quality loss is given.
RATIOS, QUALITY = losses_with(GradientRatioLoss), losses_with(losses.QualityLoss)
CASES = [
    *(("improved_baseline" if c in QUALITY else "retinanet", c.kind) for c in RATIOS),
    *((detector.kind, "efl") for detector in DENSE if detector.kind != "retinanet"),
]
STREAMED = [c.kind for c in losses_with(losses.StreamableLoss) if c in RATIOS]
each_case = pytest.mark.parametrize("case", CASES, ids="-".join)
STEPS = 3


def experiment(synthetic: Path, case: tuple[str, str], *flags: str) -> Experiment:
    """A few steps of four images each, whose result doesn't depend on how the batch is divided."""
    size = TransformConfig(short=96, long=96)
    base = load_recipe("demo")
    data = dataclasses.replace(
        base.data,
        train=Split(synthetic / "train.json", synthetic / "train"),
        train_transform=dataclasses.replace(size, flip=0.5),
        val_transform=size,
        workers=0,
    )
    model, loss = case
    words = (
        f"--model {model} --loss {loss} --model.head.depth 1 --model.backbone.norm frozen "
        f"--train.epochs None --train.iterations {STEPS} --train.batch-size 4 "
        "--train.optimizer sgd --train.lr 0.002 --train.ema-decay None --train.precision fp32 "
        "--train.evaluations 0 --accelerator cpu"
    )
    return override(dataclasses.replace(base, data=data), [*words.split(), *flags], "test")


def statistics(out: Path) -> dict[str, Tensor]:
    """The state of the loss in a run's checkpoint."""
    saved = Checkpoints(RunFolder(out).checkpoints).load_newest()
    assert saved is not None
    return {
        name.removeprefix("criterion.loss."): value
        for name, value in saved["model"].items()
        if name.startswith("criterion.loss.")
    }


def run(settings: Experiment, out: Path) -> dict[str, Tensor]:
    train(settings, RunFolder(out), Console(quiet=True))
    return statistics(out)


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert (expected["pos_grad"] > 0).any()
    assert (expected["neg_grad"] > 0).all()
    assert got["pending_calls"] == 0
    for name in ("ratio", "pos_grad", "neg_grad"):
        assert_near(got[name], expected[name])


def in_eval_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of ``train``."""
    return nn.Module.train(module, False)


@pytest.fixture(autouse=True, scope="module")
def frozen_norms() -> Iterator[None]:
    """The batch norms of heads use their running statistics: others see the micro-batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchNorm, "train", in_eval_mode)
        yield


@pytest.fixture(scope="module")
def whole(synthetic: Path, tmp_path_factory: pytest.TempPathFactory):
    """The statistics of a case in one process without micro-batches; each is trained once."""
    known: dict[tuple[str, str], dict[str, Tensor]] = {}

    def of(case: tuple[str, str]) -> dict[str, Tensor]:
        if case not in known:
            known[case] = run(experiment(synthetic, case), tmp_path_factory.mktemp("whole"))
        return known[case]

    return of


@each_case
def test_four_micro_batches_equal_one(case, synthetic, whole, tmp_path) -> None:
    assert_same(
        run(experiment(synthetic, case, "--train.micro-batches", "4"), tmp_path), whole(case)
    )


def test_a_few_categories_at_a_time_equal_all(synthetic, whole, tmp_path) -> None:
    for case in [("retinanet", kind) for kind in STREAMED]:
        streamed = experiment(synthetic, case, "--model.stream-from", "1")
        assert_same(run(streamed, tmp_path / case[1]), whole(case))


def test_ghm_counts_a_step_as_a_whole(synthetic, tmp_path, monkeypatch) -> None:
    """The weights within a step differ, as documented, so the counts of one step are compared."""
    normal = nn.init.normal_
    # Initial logits that fill all bins; the usual ones are nearly equal and fill two.
    monkeypatch.setattr(nn.init, "normal_", lambda w, std: normal(w, std=15 * std))
    flags = ("--train.iterations", "1", "--model.head.prior-probability", "0.3")
    settings = experiment(synthetic, ("retinanet", "ghm"), *flags)
    parts = override(settings, ["--train.micro-batches", "4"], "test")
    one, four = run(settings, tmp_path / "one"), run(parts, tmp_path / "four")
    assert one["counts"].sum() > 1000
    assert (one["counts"] > 0).sum() > 20
    # A logit on the border of two bins may round to either.
    assert (four["counts"] - one["counts"]).abs().sum() < 1e-3 * one["counts"].sum()


@pytest.mark.parametrize("case", CASES[1::2], ids="-".join)
def test_resumed_equals_uninterrupted(case, synthetic, whole, tmp_path, monkeypatch) -> None:
    settings = experiment(synthetic, case)
    with monkeypatch.context() as patch:  # as if asked to stop after the second step
        patch.setattr("hyperfocal.engine.loop.Loop.stopping", lambda self: self.state.step == 2)
        half = run(settings, tmp_path)
    assert (half["neg_grad"] < whole(case)["neg_grad"]).any()
    assert_same(run(dataclasses.replace(settings, resume=True), tmp_path), whole(case))


def join(rank: int, port: int) -> None:
    """Make this process one of two, as torchrun would."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)


def train_share(rank: int, port: int, runs: list[tuple[Experiment, Path]]) -> None:
    join(rank, port)
    for settings, out in runs:
        train(settings, RunFolder(out), Console(quiet=True))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Toy(nn.Module):
    """A detector for `TrainingForward`: rows (N, 5) in place of images."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 3)
        self.loss = losses.EqualizedFocalLoss(3)

    def loss_terms(self, rows: Tensor, divisors: Tensor) -> LossTerms:
        labels = torch.arange(len(rows)) % 4
        value = self.loss(self.last(rows), labels, divisors)
        return LossTerms({"classification": value}, positives=divisors)


def pass_twice(rank: int, port: int, out: Path) -> None:
    """Two synchronised forward passes before the one step, as no micro-batch makes them."""
    join(rank, port)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    toy = Toy()
    forward = DistributedDataParallel(TrainingForward(toy))
    for rows in torch.randn(2, 2, 12, 5, generator=torch.Generator().manual_seed(1))[rank]:
        forward(Sealed(rows, torch.tensor(0.5)))["classification"].backward()
    toy.loss.step()
    torch.save(toy.loss.state_dict(), out / f"{rank}.pt")
    dist.destroy_process_group()


def in_two_processes(rank: int, ports: tuple[int, int], runs, out: Path) -> None:
    BatchNorm.train = in_eval_mode  # a process of its own, without the fixture `frozen_norms`
    pass_twice(rank, ports[0], out)
    train_share(rank, ports[1], runs)


@pytest.mark.slow
def test_two_processes_equal_one(synthetic, whole, tmp_path) -> None:
    cut = [(case, "12"[n % 2]) for n, case in enumerate(CASES)]
    runs = [
        (
            experiment(synthetic, case, "--devices", "2", "--train.micro-batches", parts),
            tmp_path / "-".join((*case, parts)),
        )
        for case, parts in cut
    ]
    mp.spawn(in_two_processes, args=((free_port(), free_port()), runs, tmp_path), nprocs=2)
    for (case, _), (_, out) in zip(cut, runs, strict=True):
        assert_same(statistics(out), whole(case))

    # No process's pending statistics were replaced by process 0's.
    torch.manual_seed(0)
    toy = Toy()
    for rows in torch.randn(2, 2, 12, 5, generator=torch.Generator().manual_seed(1)).flatten(0, 1):
        toy.loss_terms(rows, torch.tensor(1.0))
    toy.loss.step()
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_same(shared, toy.loss.state_dict())


class Recorded(NamedTuple):
    """The inputs of one call of the loss."""

    logits: Tensor
    labels: Tensor
    divisor: Tensor


@pytest.mark.filterwarnings("ignore:train.precision = bf16")  # where it is emulated
@pytest.mark.parametrize(
    ("model", "precision", "parts"),
    [
        ("retinanet", "fp32", "1"),
        ("retinanet", "bf16", "4"),
        ("paa", "bf16", "1"),
        ("paa", "bf16", "4"),
    ],
)
def test_statistics_are_the_gradient_in_full_precision(
    model: str, precision: str, parts: str, synthetic: Path, tmp_path: Path, monkeypatch
) -> None:
    """Against autograd in float64 on EFL as the paper writes it, on the logits of every step."""
    calls: list[Recorded] = []
    forward = losses.EqualizedFocalLoss.forward

    def recording(self, logits, labels, normalizer):
        calls.append(Recorded(logits.detach().clone(), labels, normalizer))
        return forward(self, logits, labels, normalizer)

    monkeypatch.setattr(losses.EqualizedFocalLoss, "forward", recording)
    flags = ("--train.precision", precision, "--train.micro-batches", parts)
    found = run(experiment(synthetic, (model, "efl"), *flags), tmp_path)
    assert {call.logits.dtype for call in calls} == {
        torch.bfloat16 if precision == "bf16" else torch.float32
    }
    assert all(value.dtype == torch.float32 for name, value in found.items() if "grad" in name)
    pieces = int(parts)
    assert len(calls) == STEPS * pieces
    k = calls[0].logits.shape[-1]
    ratio, positive, negative = torch.ones(k), torch.zeros(k).double(), torch.zeros(k).double()
    for step in range(STEPS):
        for call in calls[step * pieces : (step + 1) * pieces]:
            own, rest = absolute_gradients(call, ratio.double())
            positive, negative = positive + own, negative + rest
        ratio = (positive / (negative + 1e-10)).clamp(max=1)
    for name, value in (("ratio", ratio), ("pos_grad", positive), ("neg_grad", negative)):
        assert_near(found[name], value)
    # The divisor of the parts is that of the whole step, found in the same precision.
    for step in range(STEPS):
        z = {float(call.divisor) for call in calls[step * pieces : (step + 1) * pieces]}
        assert len(z) == 1
        positives = sum(
            int((call.labels >= 0).logical_and(call.labels < k).sum())
            for call in calls[step * pieces : (step + 1) * pieces]
        )
        assert z == {max(positives, 1)}


def absolute_gradients(call: Recorded, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Per category, over its positives and over all else; float64, from probabilities."""
    kept = call.labels >= 0
    x = call.logits[kept].double().requires_grad_()
    y = nn.functional.one_hot(call.labels[kept], x.shape[-1] + 1)[:, :-1].double()
    p = x.sigmoid()
    p_t = y * p + (1 - y) * (1 - p)
    alpha = y * 0.25 + (1 - y) * 0.75
    gamma = 2 + 8 * (1 - ratio)
    loss = -alpha * gamma / 2 * (1 - p_t) ** gamma * p_t.log()
    (grad,) = torch.autograd.grad(loss.sum() / call.divisor.double(), x)
    return (grad.abs() * y).sum(0), (grad.abs() * (1 - y)).sum(0)
