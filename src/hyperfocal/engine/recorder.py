"""Everything that a training writes into its run folder, in an order that no kill can spoil.

Logs are brought to the disk before the checkpoint that relies on them; a checkpoint is written
before an evaluation, and says that it is still to come, so an evaluation that was cut short is made
again and gives the same numbers, lines and best weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from hyperfocal.engine.checkpoint import Checkpoints, attempt, save_tensors
from hyperfocal.engine.evaluate import Evaluation
from hyperfocal.engine.experiment import Experiment
from hyperfocal.engine.ratios import RatioLog
from hyperfocal.engine.run_folder import MetricsLog, RunFolder
from hyperfocal.engine.sharding import full_state
from hyperfocal.engine.state import TrainState
from hyperfocal.engine.window import Spike
from hyperfocal.names import one_name, say
from hyperfocal.types import AnnotationSet, HyperfocalError


class Recorder:
    """Writes logs, checkpoints and the best weights; only the main process does, all may call.

    Args:
        run: the folder.
        experiment: of the run.
        state: what is written.
        fabric: of the training.
        console: where the main process talks.
        total: optimizer steps of the training.
        epoch_length: images in a pass of the sampler.
        annotations: the training split, for the names of images.
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
        self.console, self.total, self.epoch_length = console, total, epoch_length
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
        """Passes of the sampler so far."""
        return self.state.step * self.experiment.train.batch_size / self.epoch_length

    @property
    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is too old."""
        age = time.monotonic() - self.saved_at
        return self.main and age >= self.experiment.checkpoint_seconds

    def write_step(self, lr: float, norm: Tensor) -> None:
        """The line of the log that ends here: mean terms since the last one; collective."""
        state = self.state
        if not len(state.window):
            return  # all of its steps were left out
        values, spikes = state.window.close(self.fabric)
        values |= {"lr": lr, "epoch": self.epoch, "grad_norm": float(norm)}
        if self.main:
            self.log.write("step", state.step, values, spikes)
            for spike in spikes:
                say(self.console, self._told(spike))

    def _told(self, spike: Spike) -> str:
        names = {record.id: one_name(record.path.name) for record in self.annotations.images}
        images = ", ".join(names[image_id] for image_id in spike.image_ids)
        return f"step {spike.step}: loss {spike.loss:.3g}, usually {spike.usual:.3g}: {images}"

    def write_evaluation(self, result: Evaluation | None, weights: Mapping[str, Tensor]) -> None:
        """An evaluation, and its weights if they are the best, or nothing measures them."""
        state, run = self.state, self.run
        ap = -math.inf
        if result is not None:
            state.evaluation = result
            then = "the next evaluation tries again"
            attempt(lambda: result.write(run, state.step), run.metrics, then)
            ap = result.ap if math.isfinite(result.ap) else -1.0
            state.note(ap)
            values = {"epoch": self.epoch} | result.metrics
            if self.experiment.train.patience is not None:
                values["evaluations_since_best"] = state.waited
            self.log.write("evaluation", state.step, values)
            say(self.console, _one_line(state.step, self.total, result))
        if result is None or ap >= state.best or not run.weights.exists():
            self.weights_written = attempt(
                lambda: save_tensors(run.weights, weights),
                run.weights,
                "the next evaluation as good tries again",
            )
            if self.weights_written:
                state.best = ap  # of the weights that lie there now

    def save(self) -> None:
        """Write a checkpoint, unless this one is written; collective.

        If it can't be written the training goes on without, and the next one is tried.
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

            then = "the training goes on and tries again at the next checkpoint"
            written = attempt(write, self.run.checkpoints, then)
        if self.fabric.broadcast(written):
            self.saved = position

    def finish(self) -> None:
        """Leave the folder so that nothing is lost.

        Raises:
            HyperfocalError: something could not be written.
        """
        state = self.state
        if state.step == self.total and not self.experiment.train.evaluations:
            weights = full_state(state.kept)
            if self.main:
                self.write_evaluation(None, weights)
        if not self.weights_written and state.evaluated == state.step:
            state.evaluated -= 1  # a resumed run measures and writes them again
        self.save()
        if self.main:
            self.log.close()
        if self.saved is None or self.saved[0] != state.step or not self.weights_written:
            raise HyperfocalError(
                f"step {state.step}: the last checkpoint or the best weights could not be written "
                f"to {self.run.path}. Make room or let it be written, then go on with --resume."
            )


def _one_line(step: int, total: int, result: Evaluation) -> str:
    metrics = result.metrics
    known = ("AP", "AP50", "APr", "APc", "APf", "AP1", "AP5")
    shown = known if result.chooses_by in known else (result.chooses_by, *known)
    parts = [f"{n} {metrics[n]:.3f}" for n in shown if n in metrics and metrics[n] == metrics[n]]
    return f"step {step}/{total}  " + "  ".join(parts)
