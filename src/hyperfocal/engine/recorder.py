"""Writes a run's logs, checkpoints and best weights, safe against being killed at any time.

Logs are flushed before the checkpoint that relies on them. A checkpoint is saved before each
evaluation and marks it as pending, so an interrupted evaluation is repeated, with the same
metrics, log lines and best weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from hyperfocal.distributed.sharding import full_state
from hyperfocal.engine.evaluate import Evaluation
from hyperfocal.engine.loss_window import Spike
from hyperfocal.engine.state import TrainState
from hyperfocal.experiment import Experiment
from hyperfocal.names import one_name, say
from hyperfocal.runs.checkpoint import Checkpoints
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.metrics_log import MetricsLog
from hyperfocal.runs.ratio_log import RatioLog
from hyperfocal.runs.weights import save_tensors
from hyperfocal.runs.writing import attempt
from hyperfocal.types import AnnotationSet, HyperfocalError


class Recorder:
    """Writes logs, checkpoints and best weights; all processes call it, only the main one writes.

    Args:
        run: the run folder.
        experiment: settings of the run.
        state: training state.
        fabric: Fabric of the training.
        console: output of the main process.
        total: optimizer steps of the whole training.
        epoch_length: the sampler's images per epoch.
        annotations: the training split.
    """

    def __init__(
        self,
        run: RunFolder,
        experiment: Experiment,
        state: TrainState,
        fabric: Fabric,
        console: Console,
        total: int,
        epoch_length: float,
        annotations: AnnotationSet,
    ) -> None:
        self.run, self.experiment, self.state, self.fabric = run, experiment, state, fabric
        self.console, self.total = console, total
        self.epoch_length = epoch_length
        self.annotations = annotations
        self.main = fabric.is_global_zero
        if self.main:
            self.log = MetricsLog(run, state.step, state.evaluated)
            self.ratios = RatioLog(run.ratios, state.model, state.step, total)
        self.checkpoints = Checkpoints(run.checkpoints, experiment.keep)
        self.saved = (state.step, state.evaluated) if state.step else None
        self.saved_at = time.monotonic()
        self.weights_written = True

    @property
    def epoch(self) -> float:
        """Epochs of the sampler so far."""
        return self.state.step * self.experiment.train.batch_size / self.epoch_length

    @property
    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is older than ``checkpoint_seconds``."""
        age = time.monotonic() - self.saved_at
        return self.main and age >= self.experiment.checkpoint_seconds

    def write_step(self, lr: float, norm: Tensor) -> None:
        """Log the mean loss terms since the last line; collective."""
        state = self.state
        if not len(state.window):
            return  # all of its steps were skipped
        values, spikes = state.window.close(self.fabric)
        values |= {"lr": lr, "epoch": self.epoch, "grad_norm": float(norm)}
        if self.main:
            self.log.write("step", state.step, values, [spike.as_json() for spike in spikes])
            for spike in spikes:
                say(self.console, self._describe(spike))

    def _describe(self, spike: Spike) -> str:
        names = {record.id: one_name(record.path.name) for record in self.annotations.images}
        images = ", ".join(names[image_id] for image_id in spike.image_ids)
        return f"step {spike.step}: loss spike {spike.loss:.3g} (mean {spike.usual:.3g}): {images}"

    def write_evaluation(self, result: Evaluation | None, weights: Mapping[str, Tensor]) -> None:
        """Log an evaluation, and save the weights if they are the best or none are evaluated."""
        state, run = self.state, self.run
        ap = -math.inf
        if result is not None:
            state.evaluation = result
            then = "the next evaluation will try again"
            attempt(lambda: result.write(run, state.step), run.metrics, then)
            ap = result.ap if math.isfinite(result.ap) else -1.0
            state.record_ap(ap)
            values = {"epoch": self.epoch} | result.metrics
            if self.experiment.train.patience is not None:
                values["evaluations_since_best"] = state.waited
            self.log.write("evaluation", state.step, values)
            say(self.console, _one_line(state.step, self.total, result))
        if result is None or ap >= state.best or not run.weights.exists():
            self.weights_written = attempt(
                lambda: save_tensors(run.weights, weights),
                run.weights,
                "the next evaluation that is as good will try again",
            )
            if self.weights_written:
                state.best = ap  # of the weights in the folder now

    def save(self) -> None:
        """Save a checkpoint, unless this state is saved already; collective.

        If it can't be written, training continues and tries again at the next one.
        """
        state, position = self.state, (self.state.step, self.state.evaluated)
        self.saved_at = time.monotonic()
        if self.saved == position:
            return
        state.share(self.fabric)
        saved, written = state.state_dict(), True
        if self.main:

            def write() -> None:
                self.log.sync()
                self.ratios.sync()
                self.checkpoints.save(state.step, saved)

            then = "training continues and tries again at the next checkpoint"
            written = attempt(write, self.run.checkpoints, then)
        if self.fabric.broadcast(written):
            self.saved = position

    def finish(self) -> None:
        """Save the last checkpoint and the weights.

        Raises:
            HyperfocalError: something could not be written.
        """
        state = self.state
        if state.step == self.total and not self.experiment.train.evaluations:
            weights = full_state(state.kept)
            if self.main:
                self.write_evaluation(None, weights)
        if not self.weights_written and state.evaluated == state.step:
            state.evaluated -= 1  # a resumed run evaluates and saves them again
        self.save()
        if self.main:
            self.log.close()
        if self.saved is None or self.saved[0] != state.step or not self.weights_written:
            raise HyperfocalError(
                f"step {state.step}: the last checkpoint or the best weights could not be written "
                f"to {self.run.path}. Free disk space or fix its permissions, then continue with "
                "--resume."
            )


def _one_line(step: int, total: int, result: Evaluation) -> str:
    metrics = result.metrics
    known = ("AP", "AP50", "APr", "APc", "APf", "AP1", "AP5")
    shown = known if result.chooses_by in known else (result.chooses_by, *known)
    parts = [f"{n} {metrics[n]:.3f}" for n in shown if n in metrics and metrics[n] == metrics[n]]
    return f"step {step}/{total}  " + "  ".join(parts)
