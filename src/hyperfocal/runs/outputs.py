"""Checks that a run's files don't overwrite its inputs or other files."""

from __future__ import annotations

from pathlib import Path

from hyperfocal.config import Config, walk
from hyperfocal.data.splits import Splits
from hyperfocal.experiment import Experiment
from hyperfocal.files import check_apart, check_outputs, is_folder
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import ConfigError


def named_files(config: Config) -> list[Path]:
    """Files and folders named in settings, such as data and weights."""
    found: list[Path] = []
    for _, part in walk(config):
        values = [v for name, v in vars(part).items() if name != "out"]
        for value in values:
            several = value if isinstance(value, tuple) else (value,)
            found += [path for path in several if isinstance(path, Path)]
    return found


def check_run_outputs(run: RunFolder, experiment: Experiment) -> None:
    """Check that writing to the run folder overwrites no file or folder named in the settings.

    Raises:
        ConfigError: the folder is that of the images or annotations, a file of a run is an input,
            or a folder would be replaced that isn't part of a run.
    """
    inputs = named_files(experiment)
    for path in inputs:
        if is_folder(path) and _same(run.path, path):
            raise ConfigError(
                f"--out {run.path}: a run's files would be mixed with the inputs in {path}; "
                "choose another --out"
            )
    check_outputs("--out", run.files, [path for path in inputs if not is_folder(path)])
    if experiment.resume:
        return  # replaces no folder
    check_apart("--out", run.folders, inputs)
    made = [f for f in run.folders if is_folder(f) and any(f.iterdir())]
    if made and not run.config.exists():
        raise ConfigError(
            f"--out {run.path}: a run would replace {made[0]}, which isn't part of a run (there "
            f"is no {run.config.name} beside it); choose another --out"
        )


def check_image_outputs(run: RunFolder, splits: Splits) -> None:
    """The same check for the image files of the splits.

    Raises:
        ConfigError: a file of a run is an image, or an image is in a folder that a run replaces.
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
