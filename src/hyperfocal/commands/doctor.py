"""``hyperfocal doctor DATA``: problems of a dataset, and suggested settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hyperfocal.commands.trust import add_trust
from hyperfocal.files import check_outputs
from hyperfocal.names import say
from hyperfocal.types import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

DESCRIPTION = """\
Check a dataset for problems, and suggest training settings for it.

  hyperfocal doctor DATA [--recipe R]
  hyperfocal doctor --data.train.annotations F --data.train.images D \\
      --data.val.annotations F --data.val.images D [--recipe R]

DATA is a folder that is searched for train and val splits, a YOLO data.yaml or a COCO .json.
All other flags of `hyperfocal train` are accepted: give those that you are going to train with,
such as --train.batch-size. Exit status 1 if something must be fixed before training."""

DEFAULT_RECIPE = "retinanet_mobilenet"


def run(words: list[str]) -> int:
    """Check the data, print the report and write the HTML page; 1 if there are errors."""
    args, flags = _parse(words)
    from rich.console import Console

    from hyperfocal.config import override
    from hyperfocal.inspection import advise, examine, print_report, write_page
    from hyperfocal.recipes import load_recipe
    from hyperfocal.runs.json_files import write_json
    from hyperfocal.runs.outputs import named_files

    recipe = load_recipe(args.recipe, args.trust)
    if args.data is not None:
        flags = [*_located(args.data, flags), *flags]
    experiment = override(recipe, flags, prog="hyperfocal doctor")
    if experiment.data.train.annotations is None:
        raise ConfigError("hyperfocal doctor needs a DATA folder or --data.train.annotations FILE")
    console = Console()
    outputs = [path for path in (args.html, args.json) if path is not None]
    read = [*named_files(experiment.data), Path(args.recipe)]
    check_outputs("--html and --json", outputs, read)

    found = examine(experiment, args.decode, partial(_bar, console))
    advice = advise(found, recipe, args.recipe, flags)
    print_report(found, advice, console)
    for split in (found.train, found.val):
        images = () if split is None else split.images
        check_outputs("--html and --json", outputs, [r.path for r in images if r.source is None])
    if args.html is not None:
        write_page(found, advice, args.html)
        say(console, f"written: {args.html}")
    if args.json is not None:
        findings = [finding.as_json() for finding in found.findings]
        write_json(
            args.json, {"findings": findings, "advice": advice.as_json() if advice else None}
        )
        say(console, f"written: {args.json}")
    return 1 if found.has_errors else 0


def _located(data: Path, flags: list[str]) -> list[str]:
    """Flags for the splits found in ``data``."""
    from hyperfocal.inspection import find_splits

    given = [word for word in flags if word.startswith(("--data.train.", "--data.val."))]
    if given:
        raise ConfigError(f"DATA is searched for train and val; leave out {given[0]}, or DATA")
    words = []
    for name, split in find_splits(data).items():
        words += [f"--data.{name}.annotations", str(split.annotations)]
        if split.images is not None:
            words += [f"--data.{name}.images", str(split.images)]
    return words


@contextmanager
def _bar(console: Console, name: str, total: int) -> Iterator[Callable[[int], None]]:
    from hyperfocal.progress import ProgressBar

    unit = "boxes" if name == "anchors" else "images"
    with ProgressBar(console, name, total, unit, enabled=total > 0, transient=True) as bar:
        yield bar.advance


def _parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="hyperfocal doctor",
        usage="hyperfocal doctor [DATA] [options] [flags of hyperfocal train]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--recipe",
        default=DEFAULT_RECIPE,
        metavar="R",
        help=f"recipe that you are going to train (default {DEFAULT_RECIPE})",
    )
    parser.add_argument(
        "--decode",
        choices=["none", "sample", "full"],
        default="sample",
        help="images to decode, to find damaged files and copies in both splits: none, sample "
        "(500 of each split) or full (default sample)",
    )
    add_trust(parser)
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="write findings and advice as JSON"
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="OUT",
        default=Path("doctor.html"),
        help="write the report with images as HTML (default doctor.html)",
    )
    args, rest = parser.parse_known_args(words)
    # DATA comes before all flags; the parser would mistake values of other flags for it.
    args.data = Path(rest.pop(0)) if rest and not rest[0].startswith("-") else None
    return args, rest
