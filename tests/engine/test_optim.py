"""Learning-rate schedules and parameter groups."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from hyperfocal.engine.optim import WeightAverage, build_optimizer, lr_factor, set_lr
from hyperfocal.experiment import TrainConfig
from hyperfocal.models import Detector
from hyperfocal.types import ConfigError

PAPER = TrainConfig(iterations=90_000)


def test_paper_schedule_drops_at_60k_and_80k() -> None:
    factors = {s: lr_factor(s, 90_000, PAPER) for s in (500, 59_999, 60_000, 79_999, 80_000)}
    assert factors == pytest.approx({500: 1, 59_999: 1, 60_000: 0.1, 79_999: 0.1, 80_000: 0.01})


def test_warmup_rises_linearly_from_its_start() -> None:
    assert lr_factor(0, 90_000, PAPER) == pytest.approx(1 / 3)
    assert lr_factor(250, 90_000, PAPER) == pytest.approx(2 / 3)
    assert lr_factor(500, 90_000, PAPER) == 1


def test_short_training_cuts_the_warmup_to_a_tenth() -> None:
    assert lr_factor(9, 100, PAPER) < 1
    assert lr_factor(10, 100, PAPER) == 1


def test_cosine_ends_at_final_lr_and_never_rises_after_warmup() -> None:
    config = TrainConfig(iterations=1000, schedule="cosine", final_lr=0.05, warmup_iterations=50)
    factors = [lr_factor(s, 1000, config) for s in range(50, 1000)]
    assert factors[0] == 1
    assert factors[-1] == pytest.approx(0.05)
    assert factors == sorted(factors, reverse=True)


def test_groups_split_backbone_and_undecayed_parameters() -> None:
    methods = dict.fromkeys(Detector.__abstractmethods__)
    model = type("Own", (Detector,), methods | {"backbone_part": "trunk"})()
    model.trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.backbone = nn.Conv2d(4, 2, 1)  # a name alone says nothing
    model.trunk[1].requires_grad_(False)
    config = TrainConfig(epochs=1, lr=0.5, backbone_lr_scale=0.1, weight_decay=0.01)
    optimizer = build_optimizer(model, config)
    set_lr(optimizer, 0.2)
    rates = {
        id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    assert rates[id(model.trunk[0].weight)] == pytest.approx((0.02, 0.01))
    assert rates[id(model.trunk[0].bias)] == pytest.approx((0.02, 0.0))
    assert rates[id(model.backbone.weight)] == pytest.approx((0.2, 0.01))
    assert len(rates) == 4  # the frozen norm is in no group

    everywhere = dataclasses.replace(config, decay_norm_and_bias=True)
    decays = {g["weight_decay"] for g in build_optimizer(model, everywhere).param_groups}
    assert decays == {0.01}


def test_one_adamw_step_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    config = TrainConfig(epochs=1, optimizer="adamw", lr=0.01, weight_decay=0.1)
    optimizer = build_optimizer(ours, config)
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    x = torch.randn(5, 3)
    for model, opt in ((ours, optimizer), (theirs, reference)):
        model(x).square().sum().backward()
        opt.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": None}, "must be given, or epochs"),
        ({"iterations": 5}, "must be left out, or epochs"),
        ({"lr": 0.0}, "lr = 0.0"),
        ({"milestones": (0.9, 0.5)}, "milestones"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_impossible_settings_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    settings: dict[str, Any] = {"epochs": 1.0} | change
    with pytest.raises(ConfigError, match=named):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("name", "definition"),
    [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)],
)
def test_steps_are_those_of_the_plain_optimizer(name: Any, definition: Any) -> None:
    torch.manual_seed(0)
    ours, plain = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)) for _ in range(2))
    plain.load_state_dict(ours.state_dict())
    config = TrainConfig(epochs=1, optimizer=name, lr=0.1, weight_decay=0.02)
    optimizer = build_optimizer(ours, config)
    own = {"momentum": 0.9} if name == "sgd" else {}
    decayed = [{"params": [plain[0].weight], "weight_decay": 0.02}]
    others = [{"params": [plain[0].bias, *plain[1].parameters()], "weight_decay": 0.0}]
    reference = definition([*decayed, *others], lr=0.1, **own, foreach=False)
    for _ in range(5):
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_weight_average_of_constant_weights_is_the_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.99)
    target = [p.detach().clone() + 1 for p in model.parameters()]
    with torch.no_grad():
        for p, t in zip(model.parameters(), target, strict=True):
            p.copy_(t)
    model[1].running_mean.fill_(3.0)
    for _ in range(2000):
        average.update(model)
    for p, t in zip(average.model.parameters(), target, strict=True):
        torch.testing.assert_close(p, t)
    assert average.model[1].running_mean.tolist() == [3.0, 3.0]
    assert not average.model.training


def test_weight_average_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, 0.5)
    expected = 0.0
    for step in range(6):
        model.weight.data.fill_(float(step))
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.model.weight) == pytest.approx(expected)
