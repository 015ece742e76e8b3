"""Losses with memory over several processes, and all settings from and to JSON."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tests.components import ALL_LOSSES, build_loss, each_loss

from hyperfocal import losses
from hyperfocal.config import dump, load
from hyperfocal.types import CategoryCounts

COUNTS = CategoryCounts(images=(90, 10, 1), instances=(500, 12, 1), num_images=100)


def build_all() -> list[torch.nn.Module]:
    built = [build_loss(config, 3) for config in ALL_LOSSES]
    return [
        *(loss for loss in built if isinstance(loss, losses.LossWithMemory)),
        losses.SeesawLoss(3, objectness=False),
        losses.EqualizationLossV2WithObjectness(3),
    ]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 5, generator=generator), torch.randint(-1, 4, (16,), generator=generator)


def feed(
    loss: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, normalizer: float = 6.0
) -> None:
    loss(x[:, : losses.num_logits(loss, 3)], labels, normalizer)


def train_one_rank(rank: int, port: int, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    x, labels = batch()
    all_losses = build_all()
    share = 6.0 / 2  # of the normaliser: gradients are averaged
    for loss in all_losses:
        if rank == 0:
            feed(loss, x[:6], labels[:6], share)
        else:  # two micro-batches
            feed(loss, x[6:9], labels[6:9], share)
            feed(loss, x[9:], labels[9:], share)
        losses.step_losses(loss)
    torch.save([loss.state_dict() for loss in all_losses], f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train_one_rank, args=(port, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x, labels = batch()
    for one, zeroth, first in zip(build_all(), *ranks, strict=True):
        feed(one, x, labels)
        before = {name: value.clone() for name, value in one.state_dict().items()}
        one.step()
        assert any(not value.equal(before[name]) for name, value in one.state_dict().items())
        for name, value in one.state_dict().items():
            assert zeroth[name].equal(first[name])
            share = 2 if isinstance(one, losses.GHMClassificationLoss) else 1
            # GHM keeps counts of one process, averaged: its weights divide one process's loss.
            torch.testing.assert_close(zeroth[name] * share, value)


def test_every_loss_with_memory_is_found():
    for loss in build_all():
        assert isinstance(loss, losses.LossWithMemory)
    assert not isinstance(losses.SigmoidFocalLoss(), losses.LossWithMemory)
    others = {"GradientRatioLoss", "SmoothedCounts", "GHMRegressionLoss"}  # bases, and of boxes
    found = subclasses(losses.LossWithMemory)
    own = {cls.__name__ for cls in found if cls.__module__.startswith("hyperfocal.")}
    assert own - others == {type(loss).__name__ for loss in build_all()}


def subclasses(cls: type) -> set[type]:
    return {found for sub in cls.__subclasses__() for found in (sub, *subclasses(sub))}


@each_loss
def test_every_classification_config_builds_a_trainable_loss(config):
    chosen = config()
    assert load(config, dump(chosen)) == chosen
    loss = chosen.build(3, COUNTS)
    x = torch.randn(2, 10, 3, requires_grad=True)
    labels = torch.randint(-1, 4, (2, 10))
    value = loss(x, labels, torch.tensor(4.0))
    (grad,) = torch.autograd.grad(value, x)
    assert value.shape == ()
    assert value > 0
    assert (grad[labels >= 0] != 0).any()
    assert (grad[labels < 0] == 0).all()


WITH_EXAMPLES = [
    module.name
    for module in pkgutil.iter_modules(losses.__path__)
    if ">>> " in inspect.getsource(importlib.import_module(f"hyperfocal.losses.{module.name}"))
]


def test_the_losses_used_most_have_examples():
    assert {"focal", "cross_entropy", "equalized_focal"} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"hyperfocal.losses.{name}")
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    assert attempted > 0
