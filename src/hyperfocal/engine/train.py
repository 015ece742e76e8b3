"""The training loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from rich.console import Console

from hyperfocal.config import check_reloads, modules_of
from hyperfocal.data import BrokenFileWarning, epoch_length, eval_batches, train_batches
from hyperfocal.engine.by_category import with_categories
from hyperfocal.engine.claim import claimed, on_main
from hyperfocal.engine.coordination import Abandoned, StopRequest, Verdict, Watchdog, agree
from hyperfocal.engine.device import resolve
from hyperfocal.engine.evaluate import (
    Evaluation,
    detect_all,
    measure,
    try_protocol,
    warn_of_coco,
)
from hyperfocal.engine.experiment import Experiment
from hyperfocal.engine.limits import detector_limit, warn_of_limits
from hyperfocal.engine.nonfinite.incident import MOST_IN_A_ROW, Rewind, examine, looks_at_each_step
from hyperfocal.engine.optim import (
    WeightAverage,
    build_optimizer,
    evaluation_steps,
    freeze,
    lr_factor,
    set_lr,
    total_steps,
)
from hyperfocal.engine.outputs import check_image_outputs, check_run_outputs
from hyperfocal.engine.progress import ProgressBar
from hyperfocal.engine.ratios import Saturation, SaturationWarning, saturation
from hyperfocal.engine.recorder import Recorder
from hyperfocal.engine.resume import can_resume, check_data, restore
from hyperfocal.engine.run_data import RunData
from hyperfocal.engine.run_folder import RunFolder, TrainedCategories
from hyperfocal.engine.runtime import TrainingForward, launch, lost_contact, mesh_of
from hyperfocal.engine.sharding import full_state, whole
from hyperfocal.engine.splits import Splits, read_splits
from hyperfocal.engine.state import TrainState
from hyperfocal.engine.step import Gradients, Stepper
from hyperfocal.engine.transfer import build_detector
from hyperfocal.engine.transfer_source import check_out
from hyperfocal.files import check_folder
from hyperfocal.names import say
from hyperfocal.types import Batch, ConfigError, HyperfocalError, HyperfocalWarning


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


def train(
    experiment: Experiment, run: RunFolder, console: Console, splits: Splits | None = None
) -> TrainResult:
    """Train, evaluate and save the best weights in ``run``.

    Each optimizer step uses ``batch_size`` images over all processes; each process splits its share
    into ``micro_batches`` parts with a common normaliser, so neither number changes the result.

    Args:
        experiment: the settings.
        run: run folder to write to.
        console: where progress is shown.
        splits: the data, if it is in memory; None reads the files named in the settings.

    Raises:
        HyperfocalError: unusable settings or data, before the first step; a loss that isn't finite;
            or last files that could not be written.
    """
    if experiment.resume and experiment.overwrite:
        raise ConfigError(
            "--resume continues a run, --overwrite replaces it: give only one of them"
        )
    check_folder(run.path, "--out")
    check_reloads(experiment)  # now rather than after the last step
    check_run_outputs(run, experiment)
    fabric = launch(experiment)
    if not fabric.is_global_zero:  # only the main process warns
        warnings.simplefilter("ignore", HyperfocalWarning)
        warnings.simplefilter("default", BrokenFileWarning)  # only one process reads the file
    with claimed(experiment, run, fabric, console):
        return _train(experiment, run, fabric, console, splits)


def _train(
    experiment: Experiment,
    run: RunFolder,
    fabric: Fabric,
    console: Console,
    splits: Splits | None,
) -> TrainResult:
    """`train`, with the run folder locked."""
    if splits is None:
        splits = read_splits(experiment.data)
    read = splits
    on_main(fabric, lambda: check_image_outputs(run, read))
    experiment = with_categories(experiment, splits.train.categories)
    counts, epoch = splits.train.counts(), epoch_length(experiment.data, splits.train)
    if splits.val is not None:  # fails here if annotations lack what the protocol needs
        try_protocol(splits.val, counts, experiment.evaluation)
        warn_of_coco(splits.val, experiment.evaluation)
        warn_of_limits(splits.val, experiment.evaluation, detector_limit(experiment.model))
    elif experiment.train.patience is not None:
        raise ConfigError("train.patience needs a val split: give --data.val.annotations")
    resumes = can_resume(experiment, run, fabric)
    if resumes:
        on_main(fabric, lambda: check_data(splits, run, experiment.accept_changed_data))
    else:
        check_out(run, experiment.model.weights)
    model, started = build_detector(experiment.model, splits.train.categories, counts, resumes)
    freeze(model, experiment.train)
    model = model.to(fabric.device)
    decay = experiment.train.ema_decay
    average = WeightAverage(model, decay, mesh_of(fabric)) if decay else None
    forward = fabric.setup_module(TrainingForward(model))
    optimizer = build_optimizer(model, experiment.train)
    wrapped = fabric.setup_optimizers(optimizer)
    state = TrainState(model, optimizer, average)
    if resumes:
        restore(state, experiment, run, fabric)
    if fabric.is_global_zero:
        if not experiment.resume:
            run.clear()
        elif state.step == 0:
            say(console, f"{run.path}: no checkpoint yet; starting at the first step")
        if started is not None:
            say(console, f"model.weights {started}")
        precision = resolve(experiment.train.precision, fabric.device)
        if experiment.train.precision == "auto" and precision == "fp32":
            console.print("train.precision: fp32, as this device has no bf16 instructions")
        if state.step < total_steps(experiment.train, epoch):
            categories = TrainedCategories(splits.train.categories, counts)
            run.start(
                experiment,
                categories,
                precision,
                data=RunData.of(splits).as_json(),
                weights_from=None if started is None else started.as_json(),
            )
    fabric.barrier()
    stepper = Stepper(fabric, forward, wrapped, state, experiment.train, experiment.seed)

    def run_all(watch: bool) -> TrainResult:
        loop = _Loop(
            experiment, fabric, stepper, state, splits, epoch, run, console, dog, stop, watch
        )
        return loop.run_all()

    # Around both loops, so that no signal is lost between them.
    with Watchdog(experiment.timeout) as dog, StopRequest() as stop:
        try:
            try:
                return run_all(watch=looks_at_each_step(fabric))
            except Rewind:
                restore(state, experiment, run, fabric)
                return run_all(watch=True)
        except RuntimeError as error:
            if not lost_contact(error):
                raise
            raise HyperfocalError(
                f"rank {fabric.global_rank} lost the connection to the other processes in "
                f"{dog.place}: one of them ended, see its message. Continue with --resume."
            ) from None


class _Loop:
    """The training loop of one call of `train`."""

    def __init__(
        self,
        experiment: Experiment,
        fabric: Fabric,
        stepper: Stepper,
        state: TrainState,
        splits: Splits,
        epoch: float,
        run: RunFolder,
        console: Console,
        dog: Watchdog,
        stop: StopRequest,
        watch: bool,
    ) -> None:
        self.experiment, self.config, self.fabric = experiment, experiment.train, fabric
        self.stepper, self.state, self.splits, self.run = stepper, state, splits, run
        self.total = total_steps(self.config, epoch)
        self.evaluation_steps = evaluation_steps(self.config.evaluations, self.total)
        self.recorder = Recorder(
            run, experiment, state, fabric, console, self.total, epoch, splits.train
        )
        main = fabric.is_global_zero
        self.progress = ProgressBar(console, "train", self.total, "it", state.step, main)
        self.stop, self.verdict, self.skipped = stop, Verdict(), 0
        self.dog, self.console = dog, console
        self.saturated = SaturationWarning(state.model, splits.train.counts(), self.total)
        self.watch, self.unseen = watch, torch.zeros((), dtype=torch.bool, device=fabric.device)

    def run_all(self) -> TrainResult:
        """Train from the current step to the last one."""
        state = self.state
        with self.progress:
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
                self.progress.advance(1, state.window.note)
                if self.verdict.save:
                    self.save()
            self.check_finite()
            self.recorder.finish()
        early = self.early
        ended = (state.step == self.total or early is not None) and not self.evaluation_due()
        stopped_by = None if ended else self.stop.received or "another process"
        main = self.fabric.is_global_zero
        if ended and main and state.evaluation is None:  # the run had ended before
            state.evaluation = Evaluation.read(self.run, state.evaluated)
        saturated = saturation(state.model, self.splits.train.counts())
        if early is not None and main:
            self.console.print(early, highlight=False, soft_wrap=True)
        return TrainResult(
            self.run,
            self.splits,
            state.evaluation,
            stopped_by,
            main,
            saturated,
            early,
            modules_of(self.experiment),
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
                        counts = self.splits.train.counts()
                        result = measure(found, val, counts, self.experiment.evaluation)
                self.recorder.write_evaluation(result, weights)
            except Abandoned:
                ended = False
        known = (ended, state.peak, state.peak_step, state.waited)
        ended, state.peak, state.peak_step, state.waited = fabric.broadcast(known)
        if ended:
            state.evaluated = state.step
        return ended
