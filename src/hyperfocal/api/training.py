"""`hyperfocal.train`: train a detector from Python, on files or on objects in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperfocal.api.data import Data, as_files, in_memory
from hyperfocal.api.process_state import globals_restored
from hyperfocal.api.run import Run
from hyperfocal.api.settings import Settings, as_experiment
from hyperfocal.names import say
from hyperfocal.types import ConfigError

if TYPE_CHECKING:
    from hyperfocal.experiment import Experiment


@globals_restored()
def train(
    recipe: str | Path | Experiment,
    *,
    train: Data,
    val: Data | None = None,
    out: str | Path | None = None,
    settings: Settings | None = None,
    categories: Sequence[str] | None = None,
    trust: Sequence[str] = (),
    verbose: bool = True,
) -> Run:
    """Train a detector, evaluate it and save the best weights.

    Does the same as ``hyperfocal train RECIPE ...``, with the same settings, checks and files.

    Args:
        recipe: a name from ``hyperfocal recipes``, the path of a recipe file or of a run folder, or
            an `Experiment`. The run folder ``out`` itself, with ``{"resume": True}``, resumes that
            run with its own settings.
        train: the training split: ``(annotations, images)`` as paths, an `AnnotationSet`, a
            ``supervision.DetectionDataset`` or a torch Dataset (`hyperfocal.annotations_of`).
        val: the validation split, of the same kinds; None trains without evaluation.
        out: run folder; default ``runs/RECIPE``.
        settings: flags by name, such as ``{"train.epochs": 15, "loss": "efl", "sampler": "rfs"}``;
            ``{"resume": True}`` resumes the run in ``out``, ``{"overwrite": True}`` replaces it.
        categories: names in label order, for a torch Dataset.
        trust: if the recipe is a run folder, the modules outside the package that its components
            may come from. Components named in ``settings`` don't need it.
        verbose: show progress and results.

    Returns:
        The run. Interrupting the training (Ctrl-C, or a notebook's stop button) saves a checkpoint
        and returns the run with ``stopped_by`` set.

    Raises:
        HyperfocalError: settings or data that can't be used, before the first step (the message
            says how to fix it); or training that failed.

    Examples:
        >>> import hyperfocal
        >>> run = hyperfocal.train(
        ...     "demo",
        ...     train=("train.json", "train"),
        ...     val=("val.json", "val"),
        ...     out="runs/mine",
        ...     settings={"train.iterations": 4, "loss": "efl", "sampler": "rfs"},
        ...     verbose=False,
        ... )
        >>> 0 <= run.metrics["AP"] <= 1
        True
    """
    from rich.console import Console

    from hyperfocal.api.pictures import close_training
    from hyperfocal.data.splits import Splits, read_splits
    from hyperfocal.engine.train import train as run_training
    from hyperfocal.runs.folder import RunFolder

    console = Console(quiet=not verbose)
    experiment = as_experiment(_resumed(recipe, out, settings, trust), settings, trust)
    name = "experiment" if not isinstance(recipe, str | Path) else Path(recipe).stem
    place = Path(out) if out is not None else experiment.out or Path("runs") / name
    experiment = with_files(experiment, train, val, place)
    splits = None
    if as_files(train, "train") is None:
        own = in_memory(train, "train", categories, None, console)
        other = None
        if val is not None and as_files(val, "val") is None:
            other = in_memory(val, "val", categories, own.categories, console)
        elif val is not None:
            other = read_splits(experiment.data, own).val
        splits = Splits(own, other)
    elif val is not None and as_files(val, "val") is None:
        own = read_splits(experiment.data).train
        splits = Splits(own, in_memory(val, "val", categories, own.categories, console))
    result = run_training(experiment, RunFolder(place), console, splits)
    if result.is_main and result.stopped_by is None:
        close_training(result, console)
    if result.stopped_by is not None:
        say(
            console,
            f"Stopped by {result.stopped_by}; the run is saved in {place}. Continue with "
            "settings={'resume': True}.",
        )
    return Run(place, stopped_by=result.stopped_by, trust=result.trust)


def _resumed(
    recipe: str | Path | Experiment,
    out: str | Path | None,
    settings: Settings | None,
    trust: Sequence[str],
) -> str | Path | Experiment:
    """The settings of the run in ``out`` if the recipe is that folder and is to be resumed."""
    from hyperfocal.data import Split
    from hyperfocal.recipes import load_run

    if out is None or not isinstance(recipe, str | Path) or not (settings or {}).get("resume"):
        return recipe
    if not Path(recipe).is_dir() or Path(recipe).resolve() != Path(out).resolve():
        return recipe
    run = load_run(Path(out), trust)
    data = dataclasses.replace(run.data, train=Split(), val=Split())  # given as arguments
    return dataclasses.replace(run, data=data)


def with_files(experiment: Experiment, train: Data, val: Data | None, out: Path) -> Experiment:
    """The experiment with its run folder, and with the splits that are files."""
    data = experiment.data
    for name, given in (("train", train), ("val", val)):
        files = as_files(given, name) if given is not None else None
        split = getattr(data, name)
        if files is not None:
            changes = {"annotations": files.annotations, "images": files.images}
            data = dataclasses.replace(data, **{name: dataclasses.replace(split, **changes)})
        elif split.annotations is not None:
            raise ConfigError(
                f"{name} and data.{name}.annotations = {split.annotations} are both given: give "
                "only one of them"
            )
    return dataclasses.replace(experiment, data=data, out=out)
