"""A training: its settings and data are checked, the detector is built, the loop runs."""

from __future__ import annotations

import warnings

import torch
from lightning_fabric import Fabric
from rich.console import Console

from hyperfocal.config import check_reloads
from hyperfocal.config.by_category import with_categories
from hyperfocal.data import BrokenFileWarning, epoch_length
from hyperfocal.data.splits import Splits, read_splits, with_chosen_categories
from hyperfocal.device import resolve
from hyperfocal.distributed.coordination import on_main
from hyperfocal.distributed.launch import launch, mesh_of
from hyperfocal.engine.detection_limits import warn_of_limits
from hyperfocal.engine.evaluate import (
    try_protocol,
    warn_of_coco,
)
from hyperfocal.engine.loop import Loop, TrainResult
from hyperfocal.engine.optim import (
    WeightAverage,
    build_optimizer,
    freeze,
    total_steps,
)
from hyperfocal.engine.state import TrainState, can_resume, restore
from hyperfocal.engine.step import Stepper, TrainingForward
from hyperfocal.experiment import Experiment
from hyperfocal.files import check_folder
from hyperfocal.fine_tuning.source import check_out
from hyperfocal.fine_tuning.transfer import Transfer, build_detector
from hyperfocal.names import say
from hyperfocal.runs.categories import TrainedCategories
from hyperfocal.runs.changes import check_data
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.lock import claimed
from hyperfocal.runs.outputs import check_image_outputs, check_run_outputs
from hyperfocal.runs.trained_data import RunData
from hyperfocal.types import CategoryCounts, ConfigError, HyperfocalWarning


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
    splits = with_chosen_categories(splits, experiment.data.categories)
    read = splits
    on_main(fabric, lambda: check_image_outputs(run, read))
    experiment = with_categories(experiment, splits.train.categories)
    counts, epoch = splits.train.counts(), epoch_length(experiment.data, splits.train)
    _check_evaluation(experiment, splits, counts)
    resumes = can_resume(experiment, run, fabric)
    if resumes:
        on_main(fabric, lambda: check_data(read, run, experiment.accept_changed_data))
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
        starts = state.step < total_steps(experiment.train, epoch)
        trained = TrainedCategories(splits.train.categories, counts) if starts else None
        _start_folder(experiment, run, splits, state, trained, started, console, fabric.device)
    fabric.barrier()
    stepper = Stepper(fabric, forward, wrapped, state, experiment.train, experiment.seed)
    return Loop(experiment, stepper, splits, counts, epoch, run, console).train()


def _check_evaluation(experiment: Experiment, splits: Splits, counts: CategoryCounts) -> None:
    """Check before the first step that the validation split can be evaluated.

    Raises:
        HyperfocalError: its annotations lack what the protocol needs, or there is no such split and
            the settings need one.
    """
    if splits.val is not None:
        try_protocol(splits.val, counts, experiment.evaluation)
        warn_of_coco(splits.val, experiment.evaluation)
        warn_of_limits(splits.val, experiment.evaluation, experiment.model.max_detections)
    elif experiment.train.patience is not None:
        raise ConfigError("train.patience needs a val split: give --data.val.annotations")


def _start_folder(
    experiment: Experiment,
    run: RunFolder,
    splits: Splits,
    state: TrainState,
    trained: TrainedCategories | None,
    started: Transfer | None,
    console: Console,
    device: torch.device,
) -> None:
    """Write the settings and the data's description to the run folder; in the main process.

    ``trained`` is None if all steps are done, so that nothing is written.
    """
    if not experiment.resume:
        run.clear()
    elif state.step == 0:
        say(console, f"{run.path}: no checkpoint yet; starting at the first step")
    if started is not None:
        say(console, f"model.weights {started}")
    precision = resolve(experiment.train.precision, device)
    if experiment.train.precision == "auto" and precision == "fp32":
        console.print("train.precision: fp32, as this device has no bf16 instructions")
    if trained is not None:
        run.start(
            experiment,
            trained,
            precision,
            data=RunData.of(splits).as_json(),
            weights_from=None if started is None else started.as_json(),
        )
