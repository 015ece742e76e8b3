"""Losses x samplers x detectors on a long-tailed set, over seeds: one resumable grid, one table.

    python benchmarks/long_tail.py --out runs/groceries_grid --seeds 0 1 2 --losses focal efl -- \\
        retinanet_mobilenet --data.train.annotations train.json --data.train.images images \\
        --data.val.annotations val.json --data.val.images images --model.backbone.weights FILE

What follows ``--`` is what `hyperfocal train` takes, the same for every run; each run adds its own
``--model``, ``--loss``, ``--sampler`` and ``--seed``. ``--synthetic`` draws a set of 60 categories
from 500 to 1 training images into the output folder and trains on that. A finished run is not made
again, an interrupted one is resumed, so the same command goes on; every finished run renews
``table.md`` and ``table.json``. Seeds come last in the order, so that what there is can be compared
at any time. All runs draw the same images in the same order for a seed and sampler.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Focal loss is EFL with scale 0, to the last bit, and so keeps its gradient ratios too.
LOSSES = {
    "focal": "--loss efl --loss.scale 0",
    "efl": "--loss efl",
    "efl_ce": "--loss efl --loss.ratio-of cross_entropy",
    "alpha_ce": "--loss ce --loss.alpha 0.75",
    "cb_focal": "--loss cb_focal",
    "eqlv2_focal": "--loss eqlv2_focal",
}
MODELS = {"retinanet": "", "improved_baseline": "--model improved_baseline"}
SAMPLERS = {"plain": "--sampler plain", "rfs": "--sampler rfs"}
METRICS = ("AP", "AP50", "APr", "APc", "APf")
SATURATED = 0.999


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    model: str
    loss: str
    sampler: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.model}-{self.loss}-{self.sampler}-{self.seed}"

    @property
    def flags(self) -> list[str]:
        """What tells it from the others."""
        words = (MODELS[self.model], LOSSES[self.loss], SAMPLERS[self.sampler])
        return [*shlex.split(" ".join(words)), "--seed", str(self.seed)]


def main() -> int:
    """Run what is missing, then print the table."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    data = draw(options.out) if options.synthetic else []
    for cell in cells(options):
        run = options.out / cell.name
        if not finished(run):
            command = [sys.executable, "-m", "hyperfocal.cli", "train", *options.train, *data]
            command += [*cell.flags, "--out", str(run)]
            if (run / "checkpoints").exists():
                command.append("--resume")
            print(f"\n{cell.name}: {shlex.join(command)}", flush=True)
            start = time.time()
            if code := subprocess.run(command, env=environment(options.threads)).returncode:
                return code
            last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
            if last["kind"] != "evaluation":  # it was asked to stop
                return 1
            (run / "finished").write_text(f"{time.time() - start:.0f}\n")
        (options.out / "table.md").write_text(table(options.out))
    print(table(options.out))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["retinanet"])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=["plain"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, help="threads of each run (default: torch's)")
    parser.add_argument("--synthetic", action="store_true", help="draw the set to train on")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:split])
    options.train = words[split + 1 :] or ["demo"]
    return options


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """All runs that are asked for, seed by seed."""
    for seed in options.seeds:
        for model in options.models:
            for sampler in options.samplers:
                for loss in options.losses:
                    yield Cell(model, loss, sampler, seed)


def draw(out: Path) -> list[str]:
    """Draw 60 categories, 500 to 1 training images; the flags that name the set."""
    from hyperfocal.data.synthetic import SyntheticConfig, draw_dataset, is_drawn

    folder = out / "data"
    settings = SyntheticConfig(num_categories=60, imbalance=500, train_images=1800, val_images=400)
    if not is_drawn(folder, settings):
        draw_dataset(folder, settings)
    flags: list[str] = []
    for split in ("train", "val"):
        flags += [f"--data.{split}.annotations", str(folder / f"{split}.json")]
        flags += [f"--data.{split}.images", str(folder / split)]
    return flags


def environment(threads: int | None) -> dict[str, str]:
    """That of the runs."""
    return os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def finished(run: Path) -> bool:
    """Whether a run came to its end."""
    return (run / "finished").exists()


def table(out: Path) -> str:
    """Markdown: one line a setting, mean and spread over its seeds; writes table.json as well."""
    rows: dict[tuple[str, str, str], dict[int, dict[str, float]]] = {}
    for marker in sorted(out.glob("*/finished")):
        run = marker.parent
        model, loss, sampler, seed = run.name.split("-")
        metrics = json.loads((run / "metrics.json").read_text())["metrics"]
        metrics["minutes"] = float(marker.read_text()) / 60
        metrics |= ratios(run)
        rows.setdefault((model, sampler, loss), {})[int(seed)] = metrics
    (out / "table.json").write_text(
        json.dumps({"/".join(key): seeds for key, seeds in rows.items()}, indent=1) + "\n"
    )
    head = "| detector | sampler | loss | seeds | " + " | ".join(METRICS)
    lines = [head + " | mean ratio | ratios at 1 | minutes |", "|---" * (len(METRICS) + 7) + "|"]
    for (model, sampler, loss), seeds in rows.items():
        runs = seeds.values()
        shown = [spread(m[name] for m in runs) for name in METRICS]
        shown += [spread(m.get(n) for m in runs) for n in ("mean ratio", "ratios at 1")]
        shown.append(f"{statistics.mean(m['minutes'] for m in runs):.0f}")
        lines.append(f"| {model} | {sampler} | {loss} | {len(seeds)} | " + " | ".join(shown) + " |")
    lines += ["", *differences(rows)]
    return "\n".join(lines) + "\n"


def differences(rows: dict[tuple[str, str, str], dict[int, dict[str, float]]]) -> Iterator[str]:
    """Each loss against focal loss under the same seeds, paired: mean and spread of the gain."""
    yield "Gain over focal loss, paired by seed (mean ± standard deviation of the pairs):\n"
    yield "| detector | sampler | loss | pairs | " + " | ".join(METRICS) + " |"
    yield "|---" * (len(METRICS) + 4) + "|"
    for (model, sampler, loss), seeds in rows.items():
        base = rows.get((model, sampler, "focal"), {})
        pairs = [(m, base[s]) for s, m in seeds.items() if s in base]
        if loss != "focal" and pairs:
            gains = [spread((a[n] - b[n] for a, b in pairs), "+") for n in METRICS]
            yield f"| {model} | {sampler} | {loss} | {len(pairs)} | " + " | ".join(gains) + " |"


def ratios(run: Path) -> dict[str, float]:
    """What the last line of ratios.jsonl says; nothing where the loss keeps none."""
    path = run / "ratios.jsonl"
    if not path.exists():
        return {}
    values = json.loads(path.read_text().splitlines()[-1])["ratio"]
    ones = sum(value >= SATURATED for value in values)
    return {"mean ratio": statistics.mean(values), "ratios at 1": float(ones)}


def spread(values: Iterable[float | None], sign: str = "") -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):{sign}.3f}"
    return mean if len(known) < 2 else f"{mean} ± {statistics.stdev(known):.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
