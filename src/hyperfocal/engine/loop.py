"""The training loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console

from hyperfocal.config import modules_of
from hyperfocal.data import eval_batches, train_batches
from hyperfocal.data.splits import Splits
from hyperfocal.distributed.coordination import (
    Abandoned,
    StopRequest,
    Verdict,
    Watchdog,
    agree,
    lost_contact,
)
from hyperfocal.distributed.sharding import full_state, whole
from hyperfocal.engine.evaluate import Evaluation, detect_all, measure
from hyperfocal.engine.nonfinite.handling import MOST_IN_A_ROW, Rewind, examine, looks_at_each_step
from hyperfocal.engine.optim import evaluation_steps, lr_factor, set_lr, total_steps
from hyperfocal.engine.recorder import Recorder
from hyperfocal.engine.saturation import Saturation, SaturationWarning, saturation
from hyperfocal.engine.state import restore
from hyperfocal.engine.step import Gradients, Stepper
from hyperfocal.experiment import Experiment
from hyperfocal.progress import ProgressBar
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import Batch, CategoryCounts, HyperfocalError, HyperfocalWarning


@dataclass(frozen=True)
class TrainResult:
    """Result of a training.

    Attributes:
        run: its folder.
        splits: the data that it used.
        evaluation: the last evaluation; None without a val split, or if ``is_main`` is False.
        stopped_by: the signal that stopped it early, or None.
        early: message about early stopping by ``train.patience``; None if it didn't stop early.
        is_main: whether this is the main process, which writes files and output.
        saturation: of a loss that equalizes categories; None for other losses.
        trust: the modules outside the package that its components came from.
    """

    run: RunFolder
    splits: Splits
    evaluation: Evaluation | None
    stopped_by: str | None
    is_main: bool
    saturation: Saturation | None = None
    early: str | None = None
    trust: tuple[str, ...] = ()


class Loop:
    """The steps of a training, with evaluations, checkpoints and logs.

    Args:
        experiment: the settings.
        stepper: computes the steps; has the training state and Fabric.
        splits: the data.
        counts: of the training split.
        epoch: the sampler's images per epoch.
        run: run folder to write to.
        console: where progress is shown.
    """

    def __init__(
        self,
        experiment: Experiment,
        stepper: Stepper,
        splits: Splits,
        counts: CategoryCounts,
        epoch: float,
        run: RunFolder,
        console: Console,
    ) -> None:
        self.experiment, self.config, self.stepper = experiment, experiment.train, stepper
        self.state, self.fabric = stepper.state, stepper.fabric
        self.splits, self.counts, self.epoch = splits, counts, epoch
        self.run, self.console = run, console
        self.total = total_steps(self.config, epoch)
        self.evaluation_steps = evaluation_steps(self.config.evaluations, self.total)
        self.watch = looks_at_each_step(self.fabric)
        self.unseen = torch.zeros((), dtype=torch.bool, device=self.fabric.device)
        self.verdict, self.skipped = Verdict(), 0
        self.dog, self.stop = Watchdog(experiment.timeout), StopRequest()

    def train(self) -> TrainResult:
        """Train from the current step to the last one.

        Raises:
            HyperfocalError: a step that isn't finite, files that could not be written, or another
                process that ended.
        """
        with self.dog, self.stop:
            try:
                try:
                    self.steps()
                except Rewind:  # to the last checkpoint, to find the step that isn't finite
                    restore(self.state, self.experiment, self.run, self.fabric)
                    self.watch = True
                    self.unseen.zero_()
                    self.steps()
            except RuntimeError as error:
                if not lost_contact(error):
                    raise
                raise HyperfocalError(
                    f"rank {self.fabric.global_rank} lost the connection to the other processes in "
                    f"{self.dog.place}: one of them ended, see its message. Continue with --resume."
                ) from None
        return self.result()

    def steps(self) -> None:
        """All steps from the current one on."""
        state = self.state
        self.recorder = Recorder(
            *(self.run, self.experiment, state, self.fabric, self.console),
            *(self.total, self.epoch, self.splits.train),
        )
        self.saturated = SaturationWarning(state.model, self.counts, self.total)
        main = self.fabric.is_global_zero
        with ProgressBar(self.console, "train", self.total, "it", state.step, main) as progress:
            self.save()  # fails early if the folder can't be written
            batches = self.batches()
            while not self.stopping():
                if self.evaluation_due():
                    self.save()  # so that an interrupted evaluation is repeated
                    if not self.evaluate():
                        break
                if state.step == self.total or self.early is not None:
                    break
                self.dog.at(f"step {state.step + 1}, reading images")
                batch = next(batches)
                self.dog.at(f"step {state.step + 1}, forward, backward and update")
                self.one_step(batch)
                progress.advance(1, state.window.note)
                if self.verdict.save:
                    self.save()
            self.check_finite()
            self.recorder.finish()

    def result(self) -> TrainResult:
        """Result of the training, after its last step."""
        state, early, main = self.state, self.early, self.fabric.is_global_zero
        ended = (state.step == self.total or early is not None) and not self.evaluation_due()
        if ended and main and state.evaluation is None:  # the run had ended before
            state.evaluation = Evaluation.read(self.run, state.evaluated)
        if early is not None and main:
            self.console.print(early, highlight=False, soft_wrap=True)
        return TrainResult(
            run=self.run,
            splits=self.splits,
            evaluation=state.evaluation,
            stopped_by=None if ended else self.stop.received or "another process",
            is_main=main,
            saturation=saturation(state.model, self.counts),
            early=early,
            trust=modules_of(self.experiment),
        )

    @property
    def early(self) -> str | None:
        """Message about early stopping; None while training continues."""
        state, patience = self.state, self.config.patience
        if patience is None or state.waited < patience or state.step == self.total:
            return None
        return (
            f"Stopped early at step {state.step} of {self.total}: no better AP in "
            f"{state.waited} evaluations (best {state.peak:.3f} at step {state.peak_step}; "
            f"train.patience {patience})"
        )

    def stopping(self) -> bool:
        """Whether all processes stop before the next step."""
        alone = self.fabric.world_size == 1
        return self.verdict.stop or (alone and self.stop.received is not None)

    def evaluation_due(self) -> bool:
        """Whether to evaluate before the next step."""
        return self.state.step in self.evaluation_steps and self.state.evaluated < self.state.step

    def batches(self) -> Iterator[Batch]:
        """This process's share of the global batches from the next step on."""
        return iter(
            train_batches(
                self.experiment.data,
                self.splits.train,
                batch_size=self.config.batch_size,
                seed=self.experiment.seed,
                start_step=self.state.step,
                rank=self.fabric.global_rank,
                world_size=self.fabric.world_size,
                pin_memory=self.fabric.device.type == "cuda",
            )
        )

    def one_step(self, batch: Batch) -> None:
        """Forward, backward and update on one global batch."""
        state, config = self.state, self.config
        lr = config.lr * lr_factor(state.step, self.total, config)
        set_lr(state.optimizer, lr)
        batch = batch.to(self.fabric.device, non_blocking=True)
        gradients = self.stepper.gradients(batch)
        self.unseen |= gradients.bad
        self.verdict = agree(
            self.fabric,
            bad=self.unseen if self.watch else None,
            stop=self.stop.received is not None,
            save=self.recorder.checkpoint_due,
        )
        if self.verdict.bad:
            self.skip(batch, gradients)
        else:
            self.skipped = 0
            self.stepper.update()
            state.window.add(gradients.terms, state.step, config.batch_size, batch.image_ids)
        if self.fabric.is_global_zero:
            self.recorder.ratios.after(state.step)
        if state.step % config.log_every == 0 or state.step == self.total:
            self.check_finite()
            self.recorder.write_step(lr, gradients.norm)

    def skip(self, batch: Batch, gradients: Gradients) -> None:
        """Skip a step that isn't finite, or stop.

        Raises:
            HyperfocalError: ``on_nonfinite`` is stop, or there were too many such steps in a row.
        """
        message = examine(self.stepper, batch, gradients, self.run, self.splits.train, self.total)
        self.unseen.zero_()
        self.skipped += 1
        if self.config.on_nonfinite == "stop" or self.skipped == MOST_IN_A_ROW:
            self.save()
            main = self.fabric.is_global_zero
            raise HyperfocalError(message if main else "stopped with the main process")
        warnings.warn(message.splitlines()[0], HyperfocalWarning, stacklevel=2)
        self.state.step += 1

    def save(self) -> None:
        """Save a checkpoint, if all steps so far were finite."""
        self.check_finite()
        self.dog.at(f"the checkpoint of step {self.state.step}")
        self.recorder.save()

    def check_finite(self) -> None:
        """Check that all steps so far were finite.

        Raises:
            Rewind: one wasn't.
        """
        if not self.watch and bool(self.unseen):
            raise Rewind

    def evaluate(self) -> bool:
        """Evaluate on the val split; save the weights if they are the best so far.

        Returns:
            False if a signal interrupted it.
        """
        val, state, fabric = self.splits.val, self.state, self.fabric
        state.share(fabric)
        self.saturated.at(state.step)
        found = None
        if val is not None:
            batches = eval_batches(
                self.experiment.data,
                val,
                batch_size=self.experiment.evaluation.batch_size,
                rank=fabric.global_rank,
                world_size=fabric.world_size,
            )
            place = f"the evaluation after step {state.step}"
            with fabric.autocast(), whole(state.kept):
                found = detect_all(
                    state.kept,
                    batches,
                    fabric.device,
                    advance=lambda images: self.dog.at(place),
                    stop=lambda: self.stop.received is not None,
                )
            if found is None:
                return False
        self.dog.at(f"the metrics after step {state.step}")
        weights, ended = full_state(state.kept), True
        if fabric.is_global_zero:
            result = None
            try:
                if val is not None and found is not None:
                    with self.stop.abandoning():
                        result = measure(found, val, self.counts, self.experiment.evaluation)
                self.recorder.write_evaluation(result, weights)
            except Abandoned:
                ended = False
        known = (ended, state.peak, state.peak_step, state.waited)
        ended, state.peak, state.peak_step, state.waited = fabric.broadcast(known)
        if ended:
            state.evaluated = state.step
        return ended
