"""``hyperfocal train RECIPE [flags]``: train, evaluate, draw figures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hyperfocal.commands.trust import take_trust
from hyperfocal.names import MAX_COMMAND, command, say
from hyperfocal.types import ConfigError

DESCRIPTION = """\
Train a detector and evaluate it.

  hyperfocal train RECIPE --data.train.annotations F --data.train.images D \\
      --data.val.annotations F --data.val.images D --out RUN [any setting]

RECIPE is a name from `hyperfocal recipes`, a path to your own recipe file, or a run folder, whose
detector and settings are used. `--model.weights RUN` starts any recipe from a trained detector
(docs/fine_tuning.md).
`--loss my_losses:MyLoss` uses your own loss; the other components work the same way. `--trust
my_losses` allows the components of a run folder (docs/extend.md).
`hyperfocal train RECIPE --help` lists every setting with its default.
Annotations: COCO JSON, a YOLO data.yaml, a folder of Pascal VOC XML, or the CSV of Open Images."""


def run(words: list[str]) -> int:
    """Parse the flags of the recipe, train, and print a summary."""
    if not words or words[0].startswith("-"):
        parser = argparse.ArgumentParser(
            prog="hyperfocal train",
            description=DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("RECIPE")
        if not words or {"-h", "--help"} & set(words):
            parser.parse_args(words)  # prints and exits
        raise ConfigError(f"the recipe comes first: hyperfocal train RECIPE {command(*words)}")
    name, *flags = words
    trust, flags = take_trust(flags)
    from hyperfocal.config import override
    from hyperfocal.recipes import load_recipe

    experiment = override(
        load_recipe(name, trust), flags, prog=command("hyperfocal", "train", name)
    )
    out = experiment.out or Path("runs") / Path(name).stem
    from rich.console import Console

    from hyperfocal.api.pictures import close_training
    from hyperfocal.engine.train import train
    from hyperfocal.runs.folder import RunFolder

    console = Console()
    result = train(experiment, RunFolder(out), console)
    if not result.is_main:
        return 0
    if result.stopped_by is not None:
        again = command("hyperfocal", *(w for w in sys.argv[1:] if w != "--resume"), "--resume")
        say(
            console,
            f"Stopped by {result.stopped_by}; the run is saved in {out}. To resume:\n  {again}",
            most=MAX_COMMAND,
        )
        return 130 if result.stopped_by == "SIGINT" else 0
    close_training(result, console)
    return 0
