"""Going on with a run: its newest good checkpoint, and what is no longer as it was."""

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
        "model.weights",  # only a run's first step starts from them
    )
)
"""Settings that may change in mid-run without another result."""


def restore(state: TrainState, experiment: Experiment, run: RunFolder, fabric: Fabric) -> None:
    """Bring ``state`` to the newest good checkpoint; without any it stays as it is.

    The main process reads and the others get it from there, so that all take the same one, and
    only the main one needs to see the folder.

    Raises:
        HyperfocalError: no checkpoint can be read, or this model can't take it.
    """
    saved: dict[str, Any] | str | None = None
    if fabric.is_global_zero:
        try:
            saved = Checkpoints(run.checkpoints, experiment.keep).load_newest()
        except HyperfocalError as error:
            saved = str(error)  # raised everywhere, so that nobody waits
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
            "Resume with the settings of config.json, or choose another --out."
        ) from None


def can_resume(experiment: Experiment, run: RunFolder, fabric: Fabric) -> bool:
    """Whether the run is to be resumed and has a checkpoint; the main process looks, all learn."""
    answer: bool = fabric.broadcast(experiment.resume and run.has_checkpoint)
    return answer


def check_data(splits: Splits, run: RunFolder, accept: bool) -> None:
    """Compare the data with what the run was trained on.

    Args:
        splits: the data as read now.
        run: the folder; a run of an older version recorded categories and their counts alone.
        accept: only warn of changes that the weights can take.

    Raises:
        ConfigError: it has changed; the message names the differences.
    """
    before, now = run.read_categories(), splits.train
    try:
        changes = category_changes(before.categories, now.categories)
    except ConfigError as error:
        raise ConfigError(
            f"{run.path}: --resume finds {error}. The checkpoint can't take them: choose another "
            f"--out, with --model.weights {command(run.path)} to start from what this run has "
            "learnt."
        ) from None
    if run.data.exists():
        recorded = RunData.from_json(read_json(run.data), run.data)
        changes += image_changes(recorded, RunData.of(splits), same_labels=not changes)
    elif before.counts is not None:
        changes += count_changes(before.counts, now.counts())
    if not changes:
        return
    told = f"{run.path}: the data has changed since the run began: {'; '.join(changes)}"
    if not accept:
        raise ConfigError(
            f"{told}. Give the data it began with; or add --accept-changed-data to go on with this "
            f"data all the same; or choose another --out, with --model.weights {command(run.path)} "
            "to start from what this run has learnt."
        )
    warnings.warn(f"{told}. The run goes on with it.", HyperfocalWarning, stacklevel=3)


def warn_of_changes(experiment: Experiment, run: RunFolder) -> None:
    """Name settings that differ from the run's config.json and change its result."""
    try:
        before = dict(flat(read_json(run.config)))
    except ConfigError:
        return  # `RunFolder.start` writes it anew
    now = dict(flat(configs.dump(experiment)))
    changed = [
        f"{name} = {now.get(name)} (was {before.get(name)})"
        for name in sorted(now.keys() | before.keys())
        if now.get(name) != before.get(name) and name not in FREE
    ]
    if changed:
        warnings.warn(
            f"{run.path} goes on with other settings than it began with, so it is no longer the "
            f"run that config.json told: {'; '.join(changed)}",
            HyperfocalWarning,
            stacklevel=3,
        )


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
