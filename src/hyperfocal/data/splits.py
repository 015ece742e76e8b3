"""Reads the training and validation splits of an experiment, with the same labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from hyperfocal.data import DataConfig, SplitName, only_categories, read_annotations
from hyperfocal.data.formats.raw import counted
from hyperfocal.data.image_checks import Check
from hyperfocal.data.images import limit_pixels
from hyperfocal.data.same_files import files_in_both
from hyperfocal.types import AnnotationSet, Category, ConfigError, HyperfocalWarning


@dataclass(frozen=True)
class Splits:
    """Both splits; ``val`` is None if there is none."""

    train: AnnotationSet
    val: AnnotationSet | None


def read_split(
    config: DataConfig,
    name: SplitName,
    categories: Sequence[Category] | None = None,
    *,
    check: Check | None = None,
) -> AnnotationSet:
    """Read one split of a run with all of its data settings.

    Whatever uses a run's data reads it with this function, since settings such as the class
    descriptions of Open Images and ``follow_links`` have to be the same as in training.

    Args:
        config: data settings.
        name: which split.
        categories: the training split's, so that another split gets the same labels.
        check: how thoroughly image files are checked; None: as in the config.

    Raises:
        ConfigError: the config has no annotations for this split.
        DataError: something in them can't be used.
    """
    limit_pixels(config.max_pixels)
    split = config.val_split if name == "val" else config.train
    if split.annotations is None:
        what = "training" if name == "train" else "validation"
        raise ConfigError(
            f"no {what} data: give --data.{name}.annotations and --data.{name}.images"
        )
    return read_annotations(
        [file for file, _ in split.files],
        [folder for _, folder in split.files],
        check=check or config.check,
        bad_images=config.bad_images,
        follow_links=config.follow_links,
        split=name,
        categories=categories,
        openimages=split.openimages,
        format=config.format,
    )


def read_splits(config: DataConfig, train: AnnotationSet | None = None) -> Splits:
    """Read and check the annotations; the validation split gets the training split's labels.

    Args:
        config: data settings.
        train: the training split, if it is already in memory.

    Raises:
        ConfigError: no training annotations are given.
        DataError: something in them can't be used.
    """
    if train is None:
        if config.train.annotations is None:
            raise ConfigError(
                "no training data: give --data.train.annotations FILE and --data.train.images "
                "FOLDER; a run trained on a Python object is resumed with hyperfocal.train"
            )
        train = read_split(config, "train")
    if config.val.annotations is None:
        return Splits(train, None)
    splits = Splits(train, read_split(config, "val", train.categories))
    warn_of_shared_images(splits)
    return splits


def with_chosen_categories(splits: Splits, names: Sequence[str]) -> Splits:
    """Both splits with some of their categories, see `only_categories`; all if ``names`` is empty.

    Raises:
        ConfigError: a name that isn't a category of the training split.
    """
    val = None if splits.val is None else only_categories(splits.val, names)
    return Splits(only_categories(splits.train, names), val)


def warn_of_shared_images(splits: Splits) -> None:
    """A `HyperfocalWarning` with the number of images that are in both splits.

    By path, or by content: copies under other names count too.
    """
    if splits.val is None:
        return
    first, second = (
        [record.path for record in split.images if record.source is None]
        for split in (splits.train, splits.val)
    )
    pairs = files_in_both(first, second)
    if pairs:
        one, other = pairs[0]
        warnings.warn(
            f"{counted(len(pairs), 'image images')} of {len(second)} in the validation split "
            f"{'is' if len(pairs) == 1 else 'are'} in the training split too (first: {other}, same "
            f"as {one}): the AP will be too high. Remove them from one of the splits",
            HyperfocalWarning,
            stacklevel=2,
        )
