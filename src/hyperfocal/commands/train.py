"""``hyperfocal train RECIPE [flags]``: train, evaluate, draw figures."""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
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
`hyperfocal train --resume RUN` continues a run with the settings in RUN/config.json, and so does
`train RUN --out RUN --resume`; settings beside it override them.
Annotations: COCO JSON, a YOLO data.yaml, a folder of Pascal VOC XML, or the CSV of Open Images."""


def run(words: list[str]) -> int:
    """Parse the flags of the recipe, train, and print a summary."""
    resumed = words[:1] == ["--resume"] and not "".join(words[1:2]).startswith("-")
    if resumed:
        words = words[1:]
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
    from hyperfocal.recipes import load_recipe, load_run

    own = resumed or _resumes_itself(name, flags)
    start = load_run(Path(name), trust) if own else load_recipe(name, trust)
    experiment = override(start, flags, prog=command("hyperfocal", "train", name))
    out = experiment.out or Path("runs") / Path(name).stem
    if own and not _same_folder(out, Path(name)):
        raise ConfigError(
            f"--resume {command(name)} continues the run in its own folder: leave --out away"
        )
    from rich.console import Console

    from hyperfocal.api.pictures import close_training
    from hyperfocal.engine.train import train
    from hyperfocal.runs.folder import RunFolder

    console = Console()
    result = train(experiment, RunFolder(out), console)
    if not result.is_main:
        return 0
    if result.stopped_by is not None:
        given = sys.argv[1:] if resumed else [w for w in sys.argv[1:] if w != "--resume"]
        again = command("hyperfocal", *given, *([] if resumed else ["--resume"]))
        say(
            console,
            f"Stopped by {result.stopped_by}; the run is saved in {out}. To resume:\n  {again}",
            most=MAX_COMMAND,
        )
        return 130 if result.stopped_by == "SIGINT" else 0
    close_training(result, console)
    return 0


def _resumes_itself(name: str, flags: list[str]) -> bool:
    """Whether ``train RUN ... --resume`` resumes RUN, rather than a fine-tuning of its weights.

    A fine-tuning names its data, and has another run folder.
    """
    if "--resume" not in flags or not Path(name).is_dir():
        return False
    out = _value(flags, "--out")
    if out is not None:
        return _same_folder(Path(out), Path(name))
    return _value(flags, "--data.train.annotations") is None


def _value(flags: list[str], flag: str) -> str | None:
    """The value of ``FLAG VALUE`` or ``FLAG=VALUE``, the last one; None if it isn't given."""
    values = [word.partition("=")[2] for word in flags if word.startswith(f"{flag}=")]
    values += [value for word, value in pairwise(flags) if word == flag]
    return values[-1] if values else None


def _same_folder(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()
