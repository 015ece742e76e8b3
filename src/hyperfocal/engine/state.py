"""What changes while a training goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from lightning_fabric import Fabric
from torch import optim

from hyperfocal.engine.checkpoint import with_current_names
from hyperfocal.engine.evaluate import Evaluation
from hyperfocal.engine.optim import WeightAverage
from hyperfocal.engine.sharding import (
    full_optimizer_state,
    full_state,
    load_full_state,
    shard_optimizer_state,
)
from hyperfocal.engine.window import LossWindow
from hyperfocal.models import Detector


@dataclass
class TrainState:
    """What changes while training goes on; all but ``evaluation`` is in a checkpoint.

    Samplers, augmentation and torch's generators are not: they are functions of the seed and the
    step (`BatchStream`, `Draw.rng`, `step_seed`).

    Attributes:
        model: the detector, with its loss's statistics.
        optimizer: of the model's parameters.
        average: of the model's weights, or None.
        window: loss terms since the last line of the log.
        step: optimizer steps done.
        evaluated: the step of the last evaluation that ended.
        best: AP of the weights in the run folder; -1 where none could be measured.
        peak: the highest AP of all evaluations; -1 where none could be measured.
        peak_step: the step of the evaluation that had it.
        waited: evaluations since then.
        evaluation: the last one, where it ended in this process; metrics.json keeps it.
    """

    model: Detector
    optimizer: optim.Optimizer
    average: WeightAverage | None
    window: LossWindow = field(default_factory=LossWindow)
    step: int = 0
    evaluated: int = 0
    best: float = -math.inf
    peak: float = -math.inf
    peak_step: int = 0
    waited: int = 0
    evaluation: Evaluation | None = field(default=None, repr=False)

    @property
    def kept(self) -> Detector:
        """What is evaluated and kept: the average where there is one."""
        average = self.average
        return self.model if average is None else average.model  # type: ignore[return-value]

    def share(self, fabric: Fabric) -> None:
        """Make what differs between processes the same: collective.

        Batch norms see other images in each process. All go on with the main process's statistics,
        as they would from the checkpoint.
        """
        self.window.share(fabric)
        if fabric.world_size > 1:
            for module in (self.model, self.kept):
                for buffer in module.buffers():
                    buffer.copy_(fabric.broadcast(buffer))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, so that it loads without executing anything; collective."""
        average = self.average
        return {
            "model": full_state(self.model),
            "optimizer": full_optimizer_state(self.optimizer),
            "average": average and {"model": full_state(average.model), "updates": average.updates},
            "window": self.window.state_dict(),
            "step": self.step,
            "evaluated": self.evaluated,
            "best": self.best,
            "peak": self.peak,
            "peak_step": self.peak_step,
            "waited": self.waited,
        }

    def load_state_dict(self, state: dict[str, Any], fabric: Fabric) -> None:
        """Go back to where `state_dict` was taken; the optimizer keeps its own settings."""
        load_full_state(self.model, with_current_names(state["model"]))
        own, saved = self.optimizer.state_dict()["param_groups"], state["optimizer"]
        groups = [
            mine | {"lr": theirs["lr"]}  # set before every step; here only for who reads the file
            for mine, theirs in zip(own, saved["param_groups"], strict=True)
        ]
        saved = shard_optimizer_state(self.optimizer, saved)
        self.optimizer.load_state_dict(saved | {"param_groups": groups})
        if self.average is not None:  # a run that starts to average starts from its weights
            average = state["average"] or {"model": state["model"], "updates": 0}
            load_full_state(self.average.model, with_current_names(average["model"]))
            self.average.updates = average["updates"]
        self.window.load_state_dict(state["window"], fabric)
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.best = state["best"]
        # A checkpoint of an older version knows no more than its best weights.
        self.peak = state.get("peak", self.best)
        self.peak_step = state.get("peak_step", self.evaluated)
        self.waited = state.get("waited", 0)

    def note(self, ap: float) -> None:
        """Take an evaluation's AP into ``peak``, ``peak_step`` and ``waited``."""
        if ap > self.peak:
            self.peak, self.peak_step, self.waited = ap, self.step, 0
        elif self.step != self.peak_step:  # an evaluation may be made again
            self.waited += 1
