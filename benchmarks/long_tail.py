r"""Losses x samplers x detectors on a long-tailed dataset, with several seeds: grid and table.

    python benchmarks/long_tail.py --out runs/groceries_grid --seeds 0 1 2 --losses focal efl -- \\
        retinanet_mobilenet --data.train.annotations train.json --data.train.images images \\
        --data.val.annotations val.json --data.val.images images --model.backbone.weights FILE

The arguments after ``--`` are those of `hyperfocal train` for every run; each run adds its own
``--model``, ``--loss``, ``--sampler``, ``--seed``, and with ``--priors``
``--model.head.prior-probability``.
``--synthetic`` generates a dataset of 60 categories with 500 to 1 training images in the output
folder and trains on it. ``--jobs`` runs are trained in parallel, each with a ``log.txt`` in its
folder. Finished runs are skipped and interrupted ones resumed, so repeat the command to continue;
each finished run updates ``table.md`` and ``table.json``. Seeds are the outer loop, so finished
runs can be compared at any time. All runs with the same seed and sampler see the same images in the
same order.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hyperfocal.data.synthetic import is_generated, make_dataset
from hyperfocal.reproduce.equalized_focal import LONG_TAIL
from hyperfocal.reproduce.judge import interval
from hyperfocal.reproduce.runs import Job, run_jobs, same_or_write
from hyperfocal.types import HyperfocalError

# Focal loss is EFL with scale 0, bit for bit, which also logs gradient ratios.
LOSSES = {
    "focal": "--loss efl --loss.scale 0",
    "efl": "--loss efl",
    "efl_ce": "--loss efl --loss.ratio-of cross_entropy",
    "alpha_ce": "--loss ce --loss.alpha 0.75",
    "cb_focal": "--loss cb_focal",
    "cb_focal_0.9": "--loss cb_focal --loss.beta 0.9",
    "eqlv2_focal": "--loss eqlv2_focal",
}
MODELS = {"retinanet": "", "improved_baseline": "--model improved_baseline"}
SAMPLERS = {"plain": "--sampler plain", "rfs": "--sampler rfs --sampler.threshold {threshold}"}
METRICS = ("AP", "AP50", "APr", "APc", "APf")
SATURATED = 0.999


@dataclass(frozen=True)
class Setting:
    """The differences between the runs of the grid, apart from the seed.

    Attributes:
        model: one of `MODELS`.
        loss: one of `LOSSES`.
        sampler: one of `SAMPLERS`.
        prior: the head's; None: the recipe's.
        threshold: of RFS.
    """

    model: str
    loss: str
    sampler: str
    prior: float | None
    threshold: float

    @property
    def flags(self) -> list[str]:
        """The flags of this setting."""
        sampler = SAMPLERS[self.sampler].format(threshold=self.threshold)
        flags = shlex.split(f"{MODELS[self.model]} {LOSSES[self.loss]} {sampler}")
        return (
            flags
            if self.prior is None
            else [*flags, "--model.head.prior-probability", str(self.prior)]
        )

    @property
    def name(self) -> str:
        """Name of its runs' folders, without the seed."""
        words = [self.model, self.loss, self.sampler]
        return "-".join(words if self.prior is None else [*words, f"prior={self.prior}"])


def main() -> int:
    """Train what is missing, then print the table."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    shared = {"train": options.train, "rfs_threshold": options.rfs_threshold}
    if changed := same_or_write(options.out / "grid.json", shared):
        sys.exit(f"{options.out} contains other runs: {changed}. Choose another --out.")
    data = draw(options.out) if options.synthetic else []

    def done(job: Job) -> None:
        print(f"{job.folder.name}: {job.ending()}, {job.seconds() / 60:.0f} min", flush=True)
        table(options.out)

    every = [
        Job(
            setting.name,
            seed,
            options.out / f"{setting.name}-{seed}",
            (*options.train, *data, *setting.flags, "--seed", str(seed)),
        )
        for seed in options.seeds
        for setting in settings(options)
    ]
    try:
        stopped = run_jobs(every, options.jobs, torch.cuda.device_count(), done, options.threads)
    except HyperfocalError as error:
        sys.exit(str(error))
    print(table(options.out))
    return 1 if stopped else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["retinanet"])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["plain"])
    parser.add_argument(
        "--rfs-threshold",
        type=float,
        default=0.001,
        help="RFS: repeat images of categories in a smaller fraction of images (default: LVIS's)",
    )
    parser.add_argument("--priors", nargs="+", type=float, default=[None], help="of the head")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel")
    parser.add_argument("--threads", type=int, help="of each run (default: its share of the cores)")
    parser.add_argument("--synthetic", action="store_true", help="generate the dataset")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:split])
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}, but it must be at least 1")
    options.train = words[split + 1 :] or ["demo"]
    return options


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    """All requested settings."""
    for model in options.models:
        for sampler in options.samplers:
            for prior in options.priors:
                for loss in options.losses:
                    yield Setting(model, loss, sampler, prior, options.rfs_threshold)


def draw(out: Path) -> list[str]:
    """Generate 60 categories with 500 to 1 training images; returns the flags for the dataset."""
    folder = out / "data"
    if not is_generated(folder, LONG_TAIL):
        make_dataset(folder, LONG_TAIL)
    flags: list[str] = []
    for split in ("train", "val"):
        flags += [f"--data.{split}.annotations", str(folder / f"{split}.json")]
        flags += [f"--data.{split}.images", str(folder / split)]
    return flags


def table(out: Path) -> str:
    """Markdown: one line per setting, mean and standard deviation over seeds; writes both files."""
    rows: dict[tuple[str, str, str], dict[int, dict[str, float]]] = {}
    diverged = []
    for record in sorted(out.glob("*/outcome.json")):
        run = record.parent
        name, _, seed = run.name.rpartition("-")
        job = Job(name, int(seed), run, ())
        outcome = job.outcome()
        if outcome is None:
            continue
        if (made_with := json.loads((run / "config.json").read_text())["seed"]) != int(seed):
            sys.exit(f"{run} was trained with seed {made_with}: remove it and repeat the command")
        if outcome.diverged_at is not None:
            diverged.append(f"{run.name} (step {outcome.diverged_at})")
            continue
        metrics = {k: v / 100 if k.startswith("AP") else v for k, v in outcome.metrics.items()}
        metrics |= {"minutes": job.seconds() / 60, **ratios(run)}
        model, loss, sampler, *prior = name.split("-", 3)
        rows.setdefault((", ".join((model, *prior)), sampler, loss), {})[int(seed)] = metrics
    (out / "table.json").write_text(
        json.dumps({"/".join(key): seeds for key, seeds in rows.items()}, indent=1) + "\n"
    )
    head = "| detector | sampler | loss | seeds | " + " | ".join(METRICS)
    lines = [head + " | mean ratio | ratios at 1 | minutes |", "|---" * (len(METRICS) + 7) + "|"]
    for (model, sampler, loss), seeds in rows.items():
        runs = seeds.values()
        shown = [spread(m.get(n) for m in runs) for n in (*METRICS, "mean ratio", "ratios at 1")]
        shown.append(f"{statistics.mean(m['minutes'] for m in runs):.0f}")
        lines.append(f"| {model} | {sampler} | {loss} | {len(seeds)} | " + " | ".join(shown) + " |")
    lines += ["", *differences(rows)]
    if diverged:
        lines += ["", f"Diverged: {', '.join(diverged)}."]
    text = "\n".join(lines) + "\n"
    (out / "table.md").write_text(text)
    return text


def differences(rows: dict[tuple[str, str, str], dict[int, dict[str, float]]]) -> Iterator[str]:
    """Each loss against focal loss, all else equal, paired by seed: mean and interval."""
    yield "Gain over focal loss, paired by seed (mean and its Student's 95 % interval):\n"
    yield "| detector | sampler | loss | pairs | " + " | ".join(METRICS) + " |"
    yield "|---" * (len(METRICS) + 4) + "|"
    for (model, sampler, loss), seeds in rows.items():
        base = rows.get((model, sampler, "focal"), {})
        pairs = [(m, base[s]) for s, m in seeds.items() if s in base]
        if loss != "focal" and pairs:
            gains = [gain([a[n] - b[n] for a, b in pairs if n in a and n in b]) for n in METRICS]
            yield f"| {model} | {sampler} | {loss} | {len(pairs)} | " + " | ".join(gains) + " |"


def gain(values: list[float]) -> str:
    """Mean, and its interval if there are several seeds."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):+.3f}"
    if len(values) < 2:
        return mean
    low, high = interval(values)
    return f"{mean} ({low:+.3f} to {high:+.3f})"


def ratios(run: Path) -> dict[str, float]:
    """Statistics of the last line of ratios.jsonl; empty if the loss has no ratios."""
    path = run / "ratios.jsonl"
    if not path.exists():
        return {}
    values = json.loads(path.read_text().splitlines()[-1])["ratio"]
    ones = sum(value >= SATURATED for value in values)
    return {"mean ratio": statistics.mean(values), "ratios at 1": float(ones)}


def spread(values: Iterable[float | None]) -> str:
    """Mean, and the standard deviation if there are several seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.3f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
