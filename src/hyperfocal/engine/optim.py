"""Optimizer, learning-rate schedule and moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn, optim
from torch.distributed.device_mesh import DeviceMesh

from hyperfocal.distributed.sharding import local, shard
from hyperfocal.experiment import TrainConfig
from hyperfocal.models import Detector
from hyperfocal.types import ConfigError


def total_steps(config: TrainConfig, epoch: float) -> int:
    """Optimizer steps of the whole training; ``epoch`` is the sampler's images per epoch."""
    if config.iterations is not None:
        return config.iterations
    assert config.epochs is not None
    return max(round(config.epochs * epoch / config.batch_size), 1)


def evaluation_steps(evaluations: int, total: int) -> frozenset[int]:
    """Steps after which to evaluate: evenly spaced, the last one included."""
    return frozenset(math.ceil(total * i / evaluations) for i in range(1, evaluations + 1))


class WeightAverage:
    """Moving average of a model's weights, ``average ← d·average + (1 − d)·weights``.

    The decay ramps up as ``d = min(decay, (1 + t) / (10 + t))`` with t the updates so far, so that
    the random start is forgotten early. Buffers (running statistics, a loss's memory) are copied.

    Attributes:
        model: a copy of the model with the averaged weights, in eval mode.

    Args:
        model: at the start of training, not sharded.
        decay: d.
        mesh: device mesh to shard the average over, like the model; None: not sharded.
    """

    def __init__(self, model: nn.Module, decay: float, mesh: DeviceMesh | None = None) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        if mesh is not None:
            shard(self.model, mesh)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the current weights of ``model``."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages: list[Tensor] = [local(p) for p in self.model.parameters()]
        weights: list[Tensor] = [local(p) for p in model.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)


_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(model: nn.Module, config: TrainConfig) -> optim.Optimizer:
    """SGD or AdamW over the trainable parameters of ``model``.

    Parameters of a detector's ``backbone_part`` get ``backbone_lr_scale`` times the learning rate;
    normalisation parameters and biases get no weight decay unless ``decay_norm_and_bias``. The
    factor of each group is in ``lr_scale``, which `set_lr` applies.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    backbone = f"{model.backbone_part}." if isinstance(model, Detector) else None
    for name, module, parameter in _trainable(model):
        of_backbone = backbone is not None and name.startswith(backbone)
        scale = config.backbone_lr_scale if of_backbone else 1.0
        decays = config.decay_norm_and_bias or (
            parameter.ndim > 1 and not isinstance(module, _NORMS)
        )
        decay = config.weight_decay if decays else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    params = [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    if config.optimizer == "sgd":  # the fused one can't be sharded
        return optim.SGD(params, lr=config.lr, momentum=config.momentum)
    # Fused takes a sixth of the time on a small network, on a CPU too.
    return optim.AdamW(params, lr=config.lr, fused=True)


def freeze(model: Detector, config: TrainConfig) -> None:
    """Freeze what isn't trained, see `TrainConfig.only`.

    Raises:
        ConfigError: the detector doesn't declare that part.
    """
    if config.only == "all":
        return
    part = model.head_part if config.only == "head" else model.classifier
    if part is None:
        raise ConfigError(
            f"train.only = {config.only}, but {type(model).__name__} declares no such part"
        )
    model.freeze_except(part)


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield f"{prefix}.{name}", module, parameter


def lr_factor(step: int, total: int, config: TrainConfig) -> float:
    """Fraction of the peak learning rate at optimizer step ``step`` (from 0) of ``total``.

    Linear warm-up from ``warmup_start``, times 1, ``lr_decay`` per milestone passed, or half a
    cosine from 1 to ``final_lr`` over the steps after the warm-up.
    """
    warmup = min(config.warmup_iterations, total // 10)
    ramp = 1.0
    if step < warmup:
        ramp = config.warmup_start + (1 - config.warmup_start) * step / warmup
    if config.schedule == "multistep":
        passed = sum(step >= round(m * total) for m in config.milestones)
        return ramp * config.lr_decay**passed
    if config.schedule == "cosine" and step >= warmup:
        progress = (step - warmup) / max(total - 1 - warmup, 1)
        return config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    return ramp


def set_lr(optimizer: optim.Optimizer, lr: float) -> None:
    """Set each group's learning rate to ``lr`` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
