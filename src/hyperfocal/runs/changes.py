"""Changes of a run's settings and data between its start and ``--resume``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from hyperfocal import config as configs
from hyperfocal.data.splits import Splits
from hyperfocal.experiment import Experiment
from hyperfocal.files import shown
from hyperfocal.names import command
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import read_json
from hyperfocal.runs.trained_data import RunData
from hyperfocal.types import Category, CategoryCounts, ConfigError, HyperfocalWarning

MOST_NAMED = 5
"""Maximum number of categories named in a message."""

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
        before = dict(configs.by_name(read_json(run.config)))
    except ConfigError:
        return  # `RunFolder.start` rewrites it
    now = dict(configs.by_name(configs.dump(experiment)))
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


def category_changes(before: Sequence[Category], now: Sequence[Category]) -> list[str]:
    """Differences between the categories of a run and those of its data now, by label.

    Raises:
        ConfigError: the numbers of categories differ, so the run's weights don't fit.
    """
    if len(before) != len(now):
        only = {"the run": _without(before, now), "the data": _without(now, before)}
        extra = "; ".join(f"only in {x}: {_names(names)}" for x, names in only.items() if names)
        raise ConfigError(
            f"the run has {len(before)} categories, the data has {len(now)}"
            + (f" ({extra})" if extra else "")
        )
    changes = [
        f"label {label}: {shown(new.name)} (id {new.id}) was {shown(old.name)} (id {old.id})"
        for label, (old, new) in enumerate(zip(before, now, strict=True))
        if old != new
    ]
    return _shortened(changes, "categories")


def count_changes(before: CategoryCounts, now: CategoryCounts) -> list[str]:
    """Differences between two training splits of which only the counts are known."""
    pairs = {
        "training images": (before.num_images, now.num_images),
        "training boxes": (sum(before.instances), sum(now.instances)),
    }
    changes = [f"{new} {what} (were {old})" for what, (old, new) in pairs.items() if old != new]
    if not changes and before != now:
        changes = ["different numbers of training images or boxes per category"]
    return changes


def image_changes(before: RunData, now: RunData, same_labels: bool) -> list[str]:
    """Differences between the images of two versions of the data.

    Args:
        before: as recorded.
        now: as read.
        same_labels: the categories are the same; otherwise labels and digests differ anyway.
    """
    changes = list(_split_changes("training", before.train, now.train, same_labels))
    if (before.val is None) != (now.val is None):
        changes.append(f"{'no' if now.val is None else 'a new'} validation split")
    if before.val is not None and now.val is not None:
        changes += _split_changes("validation", before.val, now.val, same_labels)
    return changes


def _split_changes(
    split: str, before: Mapping[str, str], now: Mapping[str, str], same_labels: bool
) -> Iterator[str]:
    new, gone = [n for n in now if n not in before], [n for n in before if n not in now]
    other = [n for n in now if n in before and now[n] != before[n]] if same_labels else []
    kinds = (
        (new, now, "new"),
        (gone, before, "missing"),
        (other, now, "with a different size or boxes"),
    )
    for names, among, what in kinds:
        if names:
            yield f"{len(names)} of {len(among)} {split} images {what}, such as {names[0]}"
    if not new and not gone and list(before) != list(now):
        yield f"{split} images in a different order"


def _without(some: Sequence[Category], others: Sequence[Category]) -> list[str]:
    names = {category.name for category in others}
    return [category.name for category in some if category.name not in names]


def _names(names: Sequence[str]) -> str:
    return ", ".join(_shortened([shown(name) for name in names], "categories"))


def _shortened(texts: Sequence[str], what: str) -> list[str]:
    rest = len(texts) - MOST_NAMED
    return [*islice(texts, MOST_NAMED), *([f"and {rest} more {what}"] if rest > 0 else [])]
