"""``hyperfocal figures NAME|RUN... --out D``: figures of the papers, from functions and runs."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperfocal.commands.figures_of_runs import FROM_RUNS, draw_from_runs
from hyperfocal.commands.trust import add_trust
from hyperfocal.files import check_folder, check_outputs
from hyperfocal.names import say
from hyperfocal.types import ConfigError

if TYPE_CHECKING:
    from hyperfocal.figures.export import FigureData

FROM_FUNCTIONS = {
    "fl1": "focal loss against p_t (focal-loss paper, Fig. 1)",
    "fl5": "CE, FL and FL* against x_t (Fig. 5)",
    "fl6": "their derivatives (Fig. 6)",
    "fl7": "FL* for many settings (Fig. 7)",
    "efl3": "EFL without and with its weighting factor (EFL paper, Fig. 3)",
}
FROM_TABLES = {
    "fl2": "AP against time per image (Fig. 2), from the folder of `hyperfocal reproduce 1e`",
    "fl7": "FL* coloured by AP (Fig. 7), from the folder of `hyperfocal reproduce fl7`",
}
OF_TABLE = {"1e": "fl2", "fl7": "fl7"}
"""The figure of a reproduced table; all other tables give table_NAME, the AP of their rows."""

DESCRIPTION = (
    """\
Draw figures of the papers as PNG and SVG, with their data as CSV.

  hyperfocal figures fl1 efl3 --out D          figures that need no run
  hyperfocal figures RUN RUN... --out D        all figures of runs, with one line per run
  hyperfocal figures efl4 RUN RUN... --out D   one of them

"""
    + "\n".join(f"  {name:5} {what}" for name, what in FROM_FUNCTIONS.items())
    + "\nfrom runs and their data:\n"
    + "\n".join(f"  {name:5} {what}" for name, what in FROM_RUNS.items())
    + "\nfrom the folder of a reproduced table:\n"
    + "  table_NAME  AP of its rows and seeds, beside the published AP (all but these)\n"
    + "\n".join(f"  {name:5} {what}" for name, what in FROM_TABLES.items())
    + """

A figure of a run uses its best weights on images of its own data (efl2: training images, the
others: validation images), without augmentation. Gradients are those of the run's own
classification loss with respect to the logits, so that runs with any loss can be compared; they are
those of the trained detector, not the sums over its training (which ratios.png shows)."""
)


def run(words: list[str]) -> int:
    """Draw the figures that the words name."""
    args = _parse(words)
    from rich.console import Console

    from hyperfocal.figures.export import export

    console = Console()
    drawn = _from_functions([n for n in args.names if n in FROM_FUNCTIONS])
    drawn |= _from_tables(args.tables)
    if "fl2" in args.names and "fl2" not in drawn:
        raise ConfigError(
            "fl2 shows a table: give its folder too, with the table.json of "
            "`hyperfocal reproduce 1e`"
        )
    drawn |= draw_from_runs([n for n in args.names if n in FROM_RUNS], args, console)
    _check_written(args, drawn)
    for name, figure in drawn.items():
        for path in export(figure, args.out, name):
            say(console, f"  {path}")
    return 0


def _check_written(args: argparse.Namespace, names: Iterable[str]) -> None:
    """Check that no figure overwrites an input."""
    from hyperfocal.runs.folder import RunFolder
    from hyperfocal.runs.outputs import named_files

    inputs = [args.annotations, args.images, *(folder / "table.json" for folder in args.tables)]
    for run in map(RunFolder, args.runs):
        inputs += [*run.files, *named_files(run.read_experiment(args.trust).data)]
    outputs = [args.out / f"{name}.{end}" for name in names for end in ("png", "svg", "csv")]
    check_outputs("--out", outputs, inputs)


def _from_functions(names: Sequence[str]) -> dict[str, FigureData]:
    from hyperfocal.figures import loss_shapes

    draw = {
        "fl1": loss_shapes.focal_gamma_figure,
        "fl5": loss_shapes.focal_star_figure,
        "fl6": loss_shapes.focal_star_slope_figure,
        "fl7": loss_shapes.focal_star_sweep_figure,
        "efl3": loss_shapes.weighting_factor_figure,
    }
    return {name: draw[name]() for name in names}


def _from_tables(folders: Sequence[Path]) -> dict[str, FigureData]:
    from hyperfocal.figures.loss_shapes import focal_star_sweep_figure
    from hyperfocal.figures.speed import speed_figure
    from hyperfocal.figures.table_files import read_table
    from hyperfocal.figures.table_rows import table_figure

    draw = {"fl2": speed_figure, "fl7": focal_star_sweep_figure}
    drawn: dict[str, FigureData] = {}
    for folder in folders:
        table = read_table(folder)
        name = OF_TABLE.get(table.name, f"table_{table.name}")
        if name in drawn:
            raise ConfigError(f"{name} shows one table: give one folder of Table {table.name}")
        drawn[name] = draw.get(name, table_figure)(table)
    return drawn


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hyperfocal figures",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("what", nargs="+", metavar="NAME|RUN", help="figures and run folders")
    parser.add_argument("--out", type=Path, required=True, metavar="D", help="folder to write to")
    parser.add_argument(
        "--most",
        type=int,
        default=500,
        metavar="N",
        help="images used per run and split, evenly spaced (0: all; default 500)",
    )
    parser.add_argument(
        "--data.annotations",
        dest="annotations",
        type=Path,
        metavar="F",
        help="use these images instead of the runs' own splits",
    )
    parser.add_argument("--data.images", dest="images", type=Path, metavar="D", help="image folder")
    add_trust(parser)
    parser.add_argument("--device", default="auto", help="default: a GPU if there is one")
    args = parser.parse_args(words)
    check_folder(args.out, "--out")
    known = FROM_FUNCTIONS | FROM_RUNS | FROM_TABLES
    args.names = list(dict.fromkeys(word for word in args.what if word in known))
    args.runs = [Path(word) for word in args.what if word not in known]
    for path in args.runs:
        if not path.is_dir():
            close = difflib.get_close_matches(str(path), known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ConfigError(
                f"{path} is neither a run folder nor a figure ({', '.join(known)}).{hint}"
            )
    args.tables = [path for path in args.runs if (path / "table.json").exists()]
    args.runs = [path for path in args.runs if path not in args.tables]
    wanted = [name for name in args.names if name in FROM_RUNS]
    if wanted and not args.runs:
        raise ConfigError(f"{wanted[0]} shows runs: give their folders too")
    if args.runs and not wanted:
        args.names += FROM_RUNS
    if args.most < 0:
        raise ConfigError(f"--most {args.most}, but it must be at least 0")
    if args.images is not None and args.annotations is None:
        raise ConfigError("--data.images needs --data.annotations too")
    return args
