"""``hyperfocal figures NAME|RUN... --out D``: figures of the papers, from functions and runs."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hyperfocal.commands.trust import add_trust
from hyperfocal.files import check_folder, check_outputs
from hyperfocal.names import say
from hyperfocal.types import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from hyperfocal.data import SplitName
    from hyperfocal.data.loader import SizedBatches
    from hyperfocal.engine.predict import Predictor
    from hyperfocal.figures.export import FigureData
    from hyperfocal.probes.category_sums import CategorySums
    from hyperfocal.probes.sample_logits import SampleLogits
    from hyperfocal.types import AnnotationSet

FROM_FUNCTIONS = {
    "fl1": "focal loss against p_t (focal-loss paper, Fig. 1)",
    "fl5": "CE, FL and FL* against x_t (Fig. 5)",
    "fl6": "their derivatives (Fig. 6)",
    "fl7": "FL* for many settings (Fig. 7)",
    "efl3": "EFL without and with its weighting factor (EFL paper, Fig. 3)",
}
FROM_RUNS = {
    "fl4": "cumulative loss over positive and negative samples (focal-loss paper, Fig. 4)",
    "efl2": "positive over negative samples and gradients per category (EFL paper, Fig. 2)",
    "efl4": "mean score of positives minus that of negatives per category (Fig. 4)",
}
FROM_TABLES = {
    "fl2": "AP against time per image (Fig. 2), from the folder of `hyperfocal reproduce 1e`",
    "fl7": "FL* coloured by AP (Fig. 7), from the folder of `hyperfocal reproduce fl7`",
}
OF_TABLE = {"1e": "fl2", "fl7": "fl7"}
"""The figure of a reproduced table; all other tables give table_NAME, the AP of their rows."""
SPLITS = {"fl4": "val", "efl2": "train", "efl4": "val"}
"""The split of a run that a figure uses, as in its paper."""

NEGATIVES = 10_000_000
"""Number of negative logits that fl4 samples, as in its paper."""

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
    drawn |= _from_runs([n for n in args.names if n in FROM_RUNS], args, console)
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


def _from_runs(
    names: Sequence[str], args: argparse.Namespace, console: Console
) -> dict[str, FigureData]:
    if not names:
        return {}
    from hyperfocal.figures.cumulative import RunLogits, cumulative_figure
    from hyperfocal.figures.per_category import CategoryLine, imbalance_figure, margin_figure
    from hyperfocal.figures.ratio_files import read_categories

    runs = dict(zip(run_names(args.runs), args.runs, strict=True))
    categories, _ = read_categories(args.runs[0])
    for path in args.runs[1:]:
        if [c.name for c in read_categories(path)[0]] != [c.name for c in categories]:
            raise ConfigError(
                f"{path} and {args.runs[0]} have different categories: plot them separately"
            )
    drawn: dict[str, FigureData] = {}
    sums: dict[str, dict[str, CategorySums]] = {}
    for name in names:
        split = "given" if args.annotations else SPLITS[name]
        if name == "fl4":
            logits = {run: _logits(path, split, args, console) for run, path in runs.items()}
            drawn[name] = cumulative_figure([RunLogits(run, *x) for run, x in logits.items()])
            continue
        if split not in sums:
            sums[split] = {run: _sums(path, split, args, console) for run, path in runs.items()}
        found = sums[split].items()
        if name == "efl2":
            samples = [CategoryLine(run, s.count_ratio().numpy()) for run, s in found]
            gradients = [CategoryLine(run, s.gradient_ratio().numpy()) for run, s in found]
            drawn[name] = imbalance_figure(samples, gradients, categories)
        else:
            margins = [CategoryLine(run, s.margin().numpy()) for run, s in found]
            drawn[name] = margin_figure(margins, categories)
    return drawn


def _sums(run: Path, split: str, args: argparse.Namespace, console: Console) -> CategorySums:
    """Sums by category over one pass of a run's detector."""
    from hyperfocal.probes.category_sums import sum_by_category

    with _pass(run, split, args, console) as (model, batches, advance):
        return sum_by_category(model.detector, batches, model.device, advance)


def _logits(run: Path, split: str, args: argparse.Namespace, console: Console) -> SampleLogits:
    """Logits of positives and negatives over one pass of a run's detector."""
    from hyperfocal.probes.sample_logits import collect_logits

    with _pass(run, split, args, console) as (model, batches, advance):
        per_batch = -(-NEGATIVES // len(batches))
        return collect_logits(model.detector, batches, model.device, per_batch, advance=advance)


@contextmanager
def _pass(
    run: Path, split: str, args: argparse.Namespace, console: Console
) -> Iterator[tuple[Predictor, SizedBatches, Callable[[int], None]]]:
    """A run's detector, images of a split, and a function to call with the number processed."""
    from hyperfocal.data import Split, eval_batches
    from hyperfocal.data.splits import read_split
    from hyperfocal.engine.predict import load
    from hyperfocal.progress import ProgressBar
    from hyperfocal.runs.folder import RunFolder

    model = load(run, args.device, args.trust)
    data = RunFolder(run).read_experiment(args.trust).data
    if args.annotations is not None:
        data = dataclasses.replace(data, val=Split(args.annotations, args.images))
    name: SplitName = "train" if split == "train" else "val"
    if (data.train if name == "train" else data.val).annotations is None:
        raise ConfigError(
            f"{run} has no {split} split: give --data.annotations F and --data.images D"
        )
    annotations = read_split(data, name, model.categories, check="none")
    batches = eval_batches(data, spread_out(annotations, args.most), batch_size=1)
    bar = ProgressBar(console, f"{run.name}, {split}", len(batches), "images", transient=True)
    with bar, model.autocast():
        yield model, batches, bar.advance


def spread_out(annotations: AnnotationSet, most: int) -> AnnotationSet:
    """At most ``most`` images (0: all), evenly spaced over the split; without federated lists."""
    count = len(annotations.images)
    if not 0 < most < count:
        most = count
    images = tuple(annotations.images[i * count // most] for i in range(most))
    return dataclasses.replace(annotations, images=images, federated=None)


def run_names(runs: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's, with as many parents as needed to make it unique."""
    parts = [path.resolve().parts for path in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"{runs[0]}: the same run is named twice")


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
