"""``hyperfocal demo``: trains and evaluates a detector without any downloads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hyperfocal.names import MAX_COMMAND, command, say
from hyperfocal.types import ConfigError

DEFAULT_OUT = Path("runs/demo")


def run(words: list[str]) -> int:
    """Generate a long-tailed dataset (once), train the demo recipe on it, evaluate and plot."""
    from rich.console import Console

    from hyperfocal.api.pictures import close_training
    from hyperfocal.config import override
    from hyperfocal.data import Split
    from hyperfocal.data.synthetic import (
        SyntheticConfig,
        generated_with,
        is_generated,
        make_dataset,
    )
    from hyperfocal.engine.train import train
    from hyperfocal.files import check_folder
    from hyperfocal.recipes import load_recipe
    from hyperfocal.runs.folder import RunFolder

    console = Console()
    recipe = dataclasses.replace(load_recipe("demo"), out=DEFAULT_OUT, overwrite=True)
    experiment = override(recipe, words, prog="hyperfocal demo")
    for name in ("train", "val"):
        if getattr(experiment.data, name) != getattr(recipe.data, name):
            raise ConfigError(
                f"--data.{name}: the demo trains on a synthetic dataset; for your own data use "
                "hyperfocal train retinanet_mobilenet"
            )
    out = experiment.out or DEFAULT_OUT
    check_folder(out, "--out")
    drawing, folder = SyntheticConfig(), out / "data"
    if RunFolder(out).is_trained and generated_with(folder) is None:
        raise ConfigError(
            f"--out {out} contains a run that isn't the demo's and would be replaced; choose "
            "another folder"
        )
    if not is_generated(folder, drawing):
        say(console, f"generating a long-tailed dataset in {folder} ...")
        make_dataset(folder, drawing)
    data = dataclasses.replace(
        experiment.data,
        train=Split(folder / "train.json", folder / "train"),
        val=Split(folder / "val.json", folder / "val"),
    )
    result = train(dataclasses.replace(experiment, data=data), RunFolder(out), console)
    if result.stopped_by is not None:
        again = command("hyperfocal", "demo", *[w for w in words if w != "--resume"], "--resume")
        say(console, f"Stopped by {result.stopped_by}. To resume:\n  {again}", most=MAX_COMMAND)
        return 130 if result.stopped_by == "SIGINT" else 0
    if result.is_main:
        close_training(result, console)
    return 0
