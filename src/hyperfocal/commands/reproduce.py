"""``hyperfocal reproduce TABLE``: trains a published table's rows and compares the results."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperfocal.files import check_folder, check_outputs
from hyperfocal.names import command, say
from hyperfocal.types import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from hyperfocal.reproduce.judge import Outcome
    from hyperfocal.reproduce.plan import Plan
    from hyperfocal.reproduce.runs import Job

DESCRIPTION = """\
Train the rows of a published table with several seeds; write table.md and table.json.

  hyperfocal reproduce 1b --scale small --seeds 3 --out runs/1b
  hyperfocal reproduce 1b --data.train.annotations F --data.train.images D \\
      --data.val.annotations F --data.val.images D --devices 8 --seeds 3 --out runs/1b

Focal-loss paper: 1a 1b 1c 1d 1e 2 3 prior, fl7 (Fig. 7's sweep). EFL paper: efl1 to efl7.

Repeat the command to continue after a stop: finished runs are kept, interrupted ones resumed. A run
that diverges is a result. Tables share rows (focal loss with gamma 2 is in 1b, 1d and 3):
--reuse runs/1b uses those with the same settings, seed and data from there. All other flags are
passed to every training, as for `hyperfocal train RECIPE` (--train.iterations 2000 ...); a row's
own settings take precedence."""


def run(words: list[str]) -> int:
    """Train what is missing, then time the rows and write the report."""
    args, flags = _parse(words)
    from rich.console import Console

    from hyperfocal.data.synthetic import is_generated, make_dataset
    from hyperfocal.reproduce import find_row, find_table
    from hyperfocal.reproduce.plan import Plan, setting, synthetic_set, with_first_stages
    from hyperfocal.reproduce.reuse import link_runs
    from hyperfocal.reproduce.runs import run_jobs, same_or_write
    from hyperfocal.runs.lock import RunLock
    from hyperfocal.runs.outputs import named_files

    table = find_table(args.table)
    rows = [r for r in table.rows if r.runnable]
    if args.only:
        rows = with_first_stages(table, [find_row(table, name) for name in args.only])
    own_data = any(word.startswith("--data.train.annotations") for word in flags)
    generates = args.scale == "small" and not own_data
    if args.imbalance is not None and not generates:
        raise ConfigError(
            f"--imbalance {args.imbalance:g} is only for the synthetic dataset: --scale small "
            "without data"
        )
    recipe = args.recipe or ("demo" if args.scale == "small" else None)
    synthetic = synthetic_set(table.small_set, args.imbalance or 1.0) if generates else None
    out = args.out or Path("runs") / f"reproduce_{table.name}"
    check_folder(out, "--out")
    plan = Plan(table, recipe, args.scale, tuple(flags), out, synthetic)
    experiments = [plan.experiment(row, seed) for seed in range(args.seeds) for row in rows]
    manifest = {
        "table": table.name, "recipe": recipe, "scale": args.scale, "flags": flags,
        "drawn": dataclasses.asdict(synthetic) if synthetic else None,  # as in existing folders
    }  # fmt: skip
    written = [out / n for n in ("reproduce.json", "table.md", "table.json", "timing.json")]
    check_outputs("--out", written, named_files(experiments[0]))
    console = Console()
    with RunLock(out, lambda text: say(console, text)):
        if changed := same_or_write(out / "reproduce.json", manifest):
            raise ConfigError(f"{out} contains other runs: {changed}. Choose another --out.")
        if synthetic is not None and not is_generated(out / "data", synthetic):
            say(console, f"generating a long-tailed dataset in {out / 'data'} ...")
            make_dataset(out / "data", synthetic)
        jobs = plan.jobs(rows, range(args.seeds))
        if linked := link_runs(jobs, experiments, args.reuse):
            say(console, f"{linked} runs are reused from other tables")
        every = plan.jobs([r for r in table.rows if r.runnable], range(args.seeds))
        report = _Report(
            plan, every, setting(experiments[0], plan), command("hyperfocal", "reproduce", *words)
        )
        progress = _Progress(console, jobs)

        def done(job: Job) -> None:
            progress.report(job)
            report.write()

        report.write()
        stopped = run_jobs(jobs, args.jobs, _gpus(), done)
        if stopped is not None:
            console.print(
                f"Stopped by {stopped}; all runs are saved. Repeat the command to continue."
            )
            return 130 if stopped == "SIGINT" else 0
        if table.timed:
            report.time()
        report.write()
        say(console, out / "table.md")
        return 0


class _Report:
    """The results so far, written after each run."""

    def __init__(self, plan: Plan, jobs: Sequence[Job], ours: dict[str, str], command: str) -> None:
        self.plan, self.jobs, self.ours, self.command = plan, jobs, ours, command

    @property
    def timing(self) -> Path:
        return self.plan.out / "timing.json"

    def write(self) -> None:
        """Collect the results and write table.md and table.json."""
        from hyperfocal.reproduce.report import write_report
        from hyperfocal.runs.json_files import read_json

        timed = read_json(self.timing) if self.timing.exists() else {"ms": {}, "machine": None}
        results: dict[str, dict[int, Outcome]] = {}
        minutes, machines = 0.0, dict[str, None]()
        for job in self.jobs:
            minutes += job.seconds() / 60
            outcome = job.outcome()
            if outcome is None:
                continue
            machines[job.machine()] = None
            if (ms := timed["ms"].get(job.folder.name)) is not None:
                outcome = dataclasses.replace(outcome, metrics={**outcome.metrics, "ms": ms})
            results.setdefault(job.row, {})[job.seed] = outcome
        ours = self.ours | {"time": f"{minutes:.0f} minutes in all, summed over runs"}
        if machines:
            ours["versions and hardware"] = "; or ".join(machines)
        if taken := sorted({f"{job.row} ({job.folder.resolve().parent.name})" for job in self.jobs
                            if job.folder.is_symlink()}):  # fmt: skip
            ours["rows from another table"] = ", ".join(taken)
        if timed["machine"]:
            ours["ms"] = f"{timed['machine']}"
        write_report(self.plan.table, results, ours, self.command, self.plan.out)

    def time(self) -> None:
        """Time all rows in this process, unless that has been done."""
        from hyperfocal.reproduce.timing import machine, milliseconds
        from hyperfocal.runs.json_files import read_json, write_json

        wanted = [
            job for job in self.jobs
            if (found := job.outcome()) is not None and found.diverged_at is None
        ]  # fmt: skip
        known = read_json(self.timing)["ms"] if self.timing.exists() else {}
        if all(job.folder.name in known for job in wanted):
            return
        ms = {job.folder.name: milliseconds(job.folder) for job in wanted}
        write_json(self.timing, {"machine": machine(), "ms": ms})


class _Progress:
    """Prints a line for each run that ends, with the remaining time."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        self.console, self.total = console, len(jobs)
        self.done = self.before = sum(job.outcome() is not None for job in jobs)
        self.began = time.monotonic()
        say(console, f"{self.done} of {self.total} runs are finished")

    def report(self, job: Job) -> None:
        """Print how a run ended."""
        self.done += job.outcome() is not None
        made = self.done - self.before
        left = (time.monotonic() - self.began) / max(made, 1) * (self.total - self.done)
        say(
            self.console,
            f"[{self.done}/{self.total}] {job.row}, seed {job.seed}: {job.ending()}, "
            f"{job.seconds():.0f} s; about {left / 60:.0f} min left",
        )


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="hyperfocal reproduce",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("table", metavar="TABLE")
    parser.add_argument("--recipe", metavar="R", help="instead of the table's (small: demo)")
    parser.add_argument(
        "--scale",
        choices=["full", "small"],
        default="full",
        help="small: a synthetic dataset, or your own small dataset with --recipe",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N-1")
    parser.add_argument(
        "--only", action="append", metavar="ROW", help="only this row; can be repeated"
    )
    parser.add_argument("--out", type=Path, metavar="D", help="default runs/reproduce_TABLE")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="runs in parallel")
    reuse_help = "another table's --out, to reuse its runs; can be repeated"
    parser.add_argument(
        "--reuse", action="append", type=Path, default=[], metavar="D", help=reuse_help
    )
    imbalance_help = "synthetic dataset: X times as many background anchors per positive"
    parser.add_argument("--imbalance", type=float, metavar="X", help=imbalance_help)
    args, flags = parser.parse_known_args(words)
    for name in ("seeds", "jobs"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} {getattr(args, name)}, but it must be at least 1")
    for word in flags:
        if word.split("=")[0] in ("--seed", "--resume", "--overwrite", "--no-resume"):
            raise ConfigError(f"{word} is set for each run here; --seeds N chooses the seeds")
    return args, flags
