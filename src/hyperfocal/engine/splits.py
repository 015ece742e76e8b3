"""Read the train and val splits of an experiment into one label space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyperfocal.data import DataConfig, Split, SplitName, read_annotations
from hyperfocal.types import AnnotationSet, Category, ConfigError


@dataclass(frozen=True)
class Splits:
    """Both splits; ``val`` is None where none was given."""

    train: AnnotationSet
    val: AnnotationSet | None


def read_splits(config: DataConfig, train: AnnotationSet | None = None) -> Splits:
    """Read and check the annotations; val gets train's labels.

    Args:
        config: where the splits lie.
        train: the training split, if it is in memory already.

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
        train = _read(config, "train", config.train)
    if config.val.annotations is None:
        return Splits(train, None)
    return Splits(train, _read(config, "val", config.val_split, train.categories))


def _read(
    config: DataConfig,
    name: SplitName,
    split: Split,
    categories: Sequence[Category] | None = None,
) -> AnnotationSet:
    assert split.annotations is not None
    return read_annotations(
        split.annotations,
        split.images,
        check=config.check,
        bad_images=config.bad_images,
        follow_links=config.follow_links,
        split=name,
        categories=categories,
        openimages=split.openimages,
    )
