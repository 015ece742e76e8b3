"""The figures that `hyperfocal figures` draws from trained detectors and their data."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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


FROM_RUNS = {
    "fl4": "cumulative loss over positive and negative samples (focal-loss paper, Fig. 4)",
    "efl2": "positive over negative samples and gradients per category (EFL paper, Fig. 2)",
    "efl4": "mean score of positives minus that of negatives per category (Fig. 4)",
}

SPLITS = {"fl4": "val", "efl2": "train", "efl4": "val"}
"""The split of a run that a figure uses, as in its paper."""

NEGATIVES = 10_000_000
"""Number of negative logits that fl4 samples, as in its paper."""


def draw_from_runs(
    names: Sequence[str], args: argparse.Namespace, console: Console
) -> dict[str, FigureData]:
    """The figures of these names, each with one line per run.

    Args:
        names: among `FROM_RUNS`.
        args: the command's: ``runs``, ``annotations``, ``images``, ``most``, ``device``, ``trust``.
        console: where progress is shown.
    """
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
