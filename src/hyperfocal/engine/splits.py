"""Read the train and val splits of an experiment into one label space."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hyperfocal.data import DataConfig, read_annotations
from hyperfocal.types import AnnotationSet, ConfigError


@dataclass(frozen=True)
class Splits:
    """Both splits; ``val`` is None where none was given."""

    train: AnnotationSet
    val: AnnotationSet | None


def read_splits(config: DataConfig) -> Splits:
    """Read and check the annotations; val gets train's labels.

    Raises:
        ConfigError: no training annotations are given.
        DataError: something in them can't be used.
    """
    if config.train.annotations is None:
        raise ConfigError(
            "no training data: give --data.train.annotations FILE and --data.train.images FOLDER"
        )
    train = read_annotations(
        config.train.annotations,
        config.train.images,
        check=config.check,
        bad_images=config.bad_images,
        follow_links=config.follow_links,
        split="train",
        openimages=config.train.openimages,
    )
    if config.val.annotations is None:
        return Splits(train, None)
    val = config.val
    if config.val.classes is None and config.val.annotations.suffix.lower() == ".csv":
        val = replace(config.val, classes=config.train.classes)
    measured = read_annotations(
        config.val.annotations,
        config.val.images,
        check=config.check,
        bad_images=config.bad_images,
        follow_links=config.follow_links,
        split="val",
        categories=train.categories,
        openimages=val.openimages,
    )
    return Splits(train, measured)
