"""How long a training is, and when it is measured."""

from __future__ import annotations

import math

from hyperfocal.engine.experiment import TrainConfig


def total_steps(config: TrainConfig, epoch: float) -> int:
    """Optimizer steps of the whole training, with ``epoch`` images in a pass of the sampler."""
    if config.iterations is not None:
        return config.iterations
    assert config.epochs is not None
    return max(round(config.epochs * epoch / config.batch_size), 1)


def evaluation_steps(evaluations: int, total: int) -> frozenset[int]:
    """Steps after which to evaluate: evenly spaced, the last one included."""
    return frozenset(math.ceil(total * i / evaluations) for i in range(1, evaluations + 1))
