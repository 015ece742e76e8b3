"""Resuming a run: its newest intact checkpoint, and checks for changed settings and data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_fabric import Fabric

from hyperfocal import config as configs
from hyperfocal.engine.checkpoint import Checkpoints
from hyperfocal.engine.experiment import Experiment
from hyperfocal.engine.run_data import RunData, category_changes, count_changes, image_changes
from hyperfocal.engine.run_folder import RunFolder, read_json
from hyperfocal.engine.splits import Splits
from hyperfocal.engine.state import TrainState
from hyperfocal.names import command
from hyperfocal.types import ConfigError, HyperfocalError, HyperfocalWarning

FREE = frozenset(
    (
        *("out", "resume", "overwrite", "accept_changed_data", "keep", "checkpoint_seconds"),
        *("accelerator", "devices", "strategy", "timeout"),
        *("train.micro_batches", "train.on_nonfinite", "evaluation.batch_size"),
        *("data.workers", "data.check", "data.bad_images", "data.max_broken"),
        "model.weights",  # only used before a run's first step
    )
)
"""Settings that can change when a run is resumed without changing its result."""


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


def can_resume(experiment: Experiment, run: RunFolder, fabric: Fabric) -> bool:
    """Whether to resume from a checkpoint; the main process checks, and all get the answer."""
    answer: bool = fabric.broadcast(experiment.resume and run.has_checkpoint)
    return answer


def check_data(splits: Splits, run: RunFolder, accept: bool) -> None:
    """Compare the data with the data that the run was trained on.

    Args:
        splits: the data now.
        run: the folder; runs of older versions have recorded only categories and their counts.
        accept: only warn of changes that fit the weights.

    Raises:
        ConfigError: the data has changed; the message names the differences.
    """
    before, now = run.read_categories(), splits.train
    try:
        changes = category_changes(before.categories, now.categories)
    except ConfigError as error:
        raise ConfigError(
            f"{run.path} can't be resumed: {error}. Choose another --out, with --model.weights "
            f"{command(run.path)} to start from this run's weights."
        ) from None
    if run.data.exists():
        recorded = RunData.from_json(read_json(run.data), run.data)
        changes += image_changes(recorded, RunData.of(splits), same_labels=not changes)
    elif before.counts is not None:
        changes += count_changes(before.counts, now.counts())
    if not changes:
        return
    message = f"{run.path}: the data has changed since the run started: {'; '.join(changes)}"
    if not accept:
        raise ConfigError(
            f"{message}. Use the original data; or add --accept-changed-data to continue with the "
            f"changed data; or choose another --out, with --model.weights {command(run.path)} to "
            "start from this run's weights."
        )
    warnings.warn(f"{message}. Training continues with it.", HyperfocalWarning, stacklevel=3)


def warn_of_changes(experiment: Experiment, run: RunFolder) -> None:
    """Warn of settings that differ from the run's config.json and change its result."""
    try:
        before = dict(flat(read_json(run.config)))
    except ConfigError:
        return  # `RunFolder.start` rewrites it
    now = dict(flat(configs.dump(experiment)))
    changed = [
        f"{name} = {now.get(name)} (was {before.get(name)})"
        for name in sorted(now.keys() | before.keys())
        if now.get(name) != before.get(name) and name not in FREE
    ]
    if changed:
        warnings.warn(
            f"{run.path} is resumed with settings that differ from those it was started with, so "
            f"its result may differ too: {'; '.join(changed)}",
            HyperfocalWarning,
            stacklevel=3,
        )


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted name."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
