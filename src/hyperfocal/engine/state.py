"""Training state, and how it is restored from a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from lightning_fabric import Fabric
from torch import optim

from hyperfocal.distributed.sharding import (
    full_optimizer_state,
    full_state,
    load_full_state,
    shard_optimizer_state,
)
from hyperfocal.engine.evaluate import Evaluation
from hyperfocal.engine.loss_window import LossWindow
from hyperfocal.engine.optim import WeightAverage
from hyperfocal.experiment import Experiment
from hyperfocal.models import Detector
from hyperfocal.runs.changes import warn_of_changes
from hyperfocal.runs.checkpoint import Checkpoints
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.weights import with_current_names
from hyperfocal.types import ConfigError, HyperfocalError


@dataclass
class TrainState:
    """Training state; all but ``evaluation`` is saved in checkpoints.

    Samplers, augmentation and torch's generators are not saved: they are functions of the seed and
    the step (`BatchStream`, `Sampled.rng`, `step_seed`).

    Attributes:
        model: the detector, with its loss's statistics.
        optimizer: of the model's parameters.
        average: moving average of the model's weights, or None.
        window: loss terms since the last line of the log.
        step: optimizer steps done.
        evaluated: step of the last completed evaluation.
        best: AP of the weights in the run folder; -1 if it is undefined.
        peak: highest AP of all evaluations; -1 if it is undefined.
        peak_step: step of that evaluation.
        waited: evaluations since then.
        evaluation: the last one, if this process completed it; also in metrics.json.
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
        """The model that is evaluated and saved: the average if there is one."""
        average = self.average
        return self.model if average is None else average.model  # type: ignore[return-value]

    def share(self, fabric: Fabric) -> None:
        """Make equal what differs between processes; collective.

        The statistics of batch norms differ, since each process sees other images. All processes
        continue with those of the main process, as they would after resuming.
        """
        self.window.share(fabric)
        if fabric.world_size > 1:
            for module in (self.model, self.kept):
                for buffer in module.buffers():
                    buffer.copy_(fabric.broadcast(buffer))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, so that loading executes no code; collective."""
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
        """Restore what `state_dict` returned; the optimizer keeps its own settings."""
        load_full_state(self.model, with_current_names(state["model"]))
        own, saved = self.optimizer.state_dict()["param_groups"], state["optimizer"]
        groups = [
            mine | {"lr": theirs["lr"]}  # only informative: set before every step
            for mine, theirs in zip(own, saved["param_groups"], strict=True)
        ]
        saved = shard_optimizer_state(self.optimizer, saved)
        self.optimizer.load_state_dict(saved | {"param_groups": groups})
        if self.average is not None:  # without a saved average it starts from the weights
            average = state["average"] or {"model": state["model"], "updates": 0}
            load_full_state(self.average.model, with_current_names(average["model"]))
            self.average.updates = average["updates"]
        self.window.load_state_dict(state["window"], fabric)
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.best = state["best"]
        # Checkpoints of older versions have only the best AP.
        self.peak = state.get("peak", self.best)
        self.peak_step = state.get("peak_step", self.evaluated)
        self.waited = state.get("waited", 0)

    def record_ap(self, ap: float) -> None:
        """Update ``peak``, ``peak_step`` and ``waited`` with an evaluation's AP."""
        if ap > self.peak:
            self.peak, self.peak_step, self.waited = ap, self.step, 0
        elif self.step != self.peak_step:  # an evaluation may be repeated
            self.waited += 1


def can_resume(experiment: Experiment, run: RunFolder, fabric: Fabric) -> bool:
    """Whether to resume from a checkpoint; the main process checks, and all get the answer."""
    answer: bool = fabric.broadcast(experiment.resume and run.has_checkpoint)
    return answer


def restore(state: TrainState, experiment: Experiment, run: RunFolder, fabric: Fabric) -> None:
    """Load the newest intact checkpoint into ``state``, if there is one.

    The main process reads it and sends it to the others, so that all use the same one, and only
    the main process needs access to the folder.

    Raises:
        HyperfocalError: no checkpoint can be read, or it doesn't fit the model.
    """
    saved: dict[str, Any] | str | None = None
    if fabric.is_global_zero:
        try:
            saved = Checkpoints(run.checkpoints, experiment.keep).load_newest()
        except HyperfocalError as error:
            saved = str(error)  # raised in all processes, so that none waits
    saved = fabric.broadcast(saved)
    if isinstance(saved, str):
        raise HyperfocalError(saved)
    if saved is None:
        return
    if fabric.is_global_zero:
        warn_of_changes(experiment, run)
    try:
        state.load_state_dict(saved, fabric)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"{run.checkpoints}: the checkpoint doesn't fit this model or optimizer ({reason}). "
            "Resume with the settings in config.json, or choose another --out."
        ) from None
