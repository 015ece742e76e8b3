"""A run's files are never written over what the run, or anything else, is made from."""

from __future__ import annotations

from pathlib import Path

from hyperfocal.data import DataConfig
from hyperfocal.engine.experiment import Experiment
from hyperfocal.engine.run_folder import RunFolder
from hyperfocal.engine.splits import Splits
from hyperfocal.files import check_apart, check_outputs, is_folder
from hyperfocal.types import ConfigError


def data_files(data: DataConfig) -> list[Path]:
    """Files and folders that the settings of the data name."""
    named = []
    for split in (data.train, data.val):
        named += [split.annotations, split.images, split.classes]
        named += [split.image_labels, split.hierarchy]
    return [path for path in named if path is not None]


def check_run_outputs(run: RunFolder, experiment: Experiment) -> None:
    """Make sure that a training may write to its run folder, as far as the settings say.

    Raises:
        ConfigError: the folder is that of the images or annotations, a file of a run is an input,
            or there are folders named as a run's that no run made.
    """
    inputs = data_files(experiment.data)
    for path in inputs:
        if is_folder(path) and _same(run.path, path):
            raise ConfigError(
                f"--out {run.path}: a run's files would lie among the images or annotations in "
                f"{path}; choose another --out"
            )
    check_outputs("--out", run.files, [path for path in inputs if not is_folder(path)])
    check_apart("--out", run.folders, inputs)
    made = [f for f in run.folders if is_folder(f) and any(f.iterdir())]
    if made and not run.config.exists():
        raise ConfigError(
            f"--out {run.path}: a run would replace {made[0]}, which no run made (there is no "
            f"{run.config.name} beside it); choose another --out"
        )


def check_image_outputs(run: RunFolder, splits: Splits) -> None:
    """The same for the images that were read.

    Raises:
        ConfigError: a file of a run is an image, or an image lies where a run replaces files.
    """
    for split in (splits.train, splits.val):
        if split is None:
            continue
        paths = [record.path for record in split.images if record.source is None]
        check_outputs("--out", run.files, paths)
        check_apart("--out", run.folders, paths)


def _same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False
