"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from hyperfocal.engine.sharding import local, shard


class WeightAverage:
    """Keeps ``average ← d·average + (1 − d)·weights`` beside a model that trains.

    The decay ramps up as ``d = min(decay, (1 + t) / (10 + t))`` with t the updates so far, so that
    the random start is forgotten early. Buffers (running statistics, a loss's memory) are copied.

    Attributes:
        model: a copy of the model that holds the averaged weights, in eval mode.

    Args:
        model: as it starts, not sharded.
        decay: d.
        mesh: to shard the average over as the model is going to be; None: it is whole.
    """

    def __init__(self, model: nn.Module, decay: float, mesh: DeviceMesh | None = None) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        if mesh is not None:
            shard(self.model, mesh)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Fold the current weights of ``model`` in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages: list[Tensor] = [local(p) for p in self.model.parameters()]
        weights: list[Tensor] = [local(p) for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
