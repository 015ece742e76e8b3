"""table.md and table.json: our results beside the published numbers, and the conclusions."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperfocal.reproduce.judge import Outcome, Results, judge
from hyperfocal.reproduce.table import Table
from hyperfocal.runs.json_files import write_json
from hyperfocal.runs.writing import write_text_whole

LIMITS = (
    "Conclusions are tested on pairs of runs with the same seed, with Student's 95 % interval of "
    "the mean difference; a diverged run counts as AP 0. The intervals only cover the variation "
    "between seeds, not other data or schedules, and are not corrected for the number of "
    "conclusions or for selecting the best of several rows."
)


def write_report(
    table: Table, results: Results, ours: Mapping[str, str], command: str, out: Path
) -> None:
    """Write both files.

    Args:
        table: which one.
        results: available so far.
        ours: our setting, by topic ("data", "schedule", ...).
        command: which continues these runs.
        out: folder to write to.
    """
    write_json(out / "table.json", as_json(table, results, ours, command))
    text = "\n".join(markdown(table, results, ours, command)) + "\n"
    write_text_whole(out / "table.md", text)


def as_json(
    table: Table, results: Results, ours: Mapping[str, str], command: str
) -> dict[str, Any]:
    """All results as JSON-serializable values; AP in points (0 to 100), null if there is none."""
    rows = []
    for row in table.rows:
        runs = results.get(row.name, {})
        rows.append(
            {
                "name": row.name,
                "flags": list(row.flags) if row.runnable else None,
                "published": dict(zip(table.columns, row.numbers, strict=False)),
                "ours": {metric: _summary(runs, metric) for metric in table.columns},
                "runs": {
                    str(seed): {"diverged_at": run.diverged_at, "metrics": dict(run.metrics)}
                    for seed, run in sorted(runs.items())
                },
            }
        )
    judged = [(claim, judge(claim, results)) for claim in table.claims]
    return {
        "table": table.name,
        "title": table.title,
        "columns": list(table.columns),
        "command": command,
        "published_setting": table.setting,
        "our_setting": dict(ours),
        "rows": rows,
        "conclusions": [
            {"text": claim.text, "answer": verdict.answer, "why": verdict.why}
            for claim, verdict in judged
        ],
    }


def markdown(
    table: Table, results: Results, ours: Mapping[str, str], command: str
) -> Iterator[str]:
    """The lines of table.md."""
    yield f"# {table.title}"
    yield ""
    yield f"    {command}"
    yield ""
    yield "Mean ± standard deviation over seeds; ours | published."
    yield ""
    yield "| row | seeds | " + " | ".join(f"{c} | publ." for c in table.columns) + " |"
    yield "|---|---:|" + "---:|---:|" * len(table.columns)
    for row in table.rows:
        runs = results.get(row.name, {})
        cells = []
        for metric in table.columns:
            published = table.published(row.name, metric)
            cells += [_shown(runs, metric), "-" if published is None else f"{published:.1f}"]
        seeds = str(len(runs)) if row.runnable else "not run"
        yield f"| {row.name} | {seeds} | " + " | ".join(cells) + " |"
    diverged = [
        f"{row.name} seed {seed} (step {run.diverged_at})"
        for row in table.rows
        for seed, run in sorted(results.get(row.name, {}).items())
        if run.diverged_at is not None
    ]
    if diverged:
        yield ""
        yield f"Diverged (loss or gradient not finite): {', '.join(diverged)}."
    yield ""
    yield "## Conclusions of the paper"
    yield ""
    yield "| conclusion | here | evidence |"
    yield "|---|---|---|"
    for claim in table.claims:
        verdict = judge(claim, results)
        yield f"| {claim.text} | **{verdict.answer}** | {verdict.why} |"
    yield ""
    yield LIMITS
    yield ""
    yield "## Differences"
    yield ""
    yield f"- Published: {table.setting}."
    yield from (f"- Ours, {name}: {what}." for name, what in ours.items())
    yield "- Ours: AP of the last evaluation, on the val split."
    yield from (f"- {note}" for note in table.notes)


def _summary(runs: Mapping[int, Outcome], metric: str) -> dict[str, Any] | None:
    values = _known(runs, metric)
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "sd": spread, "seeds": len(values)}


def _shown(runs: Mapping[int, Outcome], metric: str) -> str:
    if runs and all(run.diverged_at is not None for run in runs.values()):
        return "diverged"
    values = _known(runs, metric)
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def _known(runs: Mapping[int, Outcome], metric: str) -> Sequence[float]:
    found = (run.value(metric) for run in runs.values())
    return [value for value in found if value is not None]
