"""Whether a table's conclusion holds on the results of several seeds, and with what certainty.

Differences are paired by seed, for seeds that both sides have: the mean difference with Student's
95 % interval. A conclusion holds if the whole interval is above its threshold, doesn't hold if all
of it is below, and is undecided otherwise. With fewer than two pairs there is no interval. The best
of several rows is selected on the same results, which favours it a little.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hyperfocal.reproduce.table import Claim, Exceeds, Fails, Within

Answer = Literal["holds", "does not hold", "undecided", "too few seeds", "not measured"]
EXACT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantile of Student's t for 1 to 10 degrees of freedom."""
NORMAL = 1.959964


@dataclass(frozen=True)
class Outcome:
    """Result of one run.

    Attributes:
        metrics: in points (AP of 0 to 100), ms in ms; empty if it diverged.
        diverged_at: step whose loss wasn't finite; None if the run was completed.
    """

    metrics: Mapping[str, float]
    diverged_at: int | None = None

    def value(self, metric: str) -> float | None:
        """A metric; a diverged run detects nothing, so its AP is 0."""
        if self.diverged_at is not None and metric.startswith("AP"):
            return 0.0
        return self.metrics.get(metric)


Results = Mapping[str, Mapping[int, Outcome]]
"""By row and seed."""


@dataclass(frozen=True)
class Verdict:
    """A conclusion tested on our results.

    Attributes:
        answer: whether it holds.
        why: the numbers behind the answer.
    """

    answer: Answer
    why: str


def judge(claim: Claim, results: Results) -> Verdict:
    """Test one conclusion."""
    if isinstance(claim, Fails):
        return _fails(claim, results)
    if isinstance(claim, Within):
        values = [_values(results, name, claim.metric) for name in (claim.row, claim.other)]
        missing = [n for n, v in zip((claim.row, claim.other), values, strict=True) if not v]
        if missing:
            return Verdict("not measured", f"no result of {', '.join(missing)}")
        return _near(_paired(*values), claim.margin, f"{claim.row} - {claim.other}")
    return _exceeds(claim, results)


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t; above 10 degrees of freedom by a series, to 0.002."""
    if freedom <= len(EXACT_T):
        return EXACT_T[freedom - 1]
    z = NORMAL
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of two or more differences."""
    mean = statistics.mean(differences)
    n = len(differences)
    half = t_quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return mean - half, mean + half


def _values(results: Results, row: str, metric: str) -> dict[int, float]:
    found = {seed: run.value(metric) for seed, run in results.get(row, {}).items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _paired(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def _exceeds(claim: Exceeds, results: Results) -> Verdict:
    values = {row: _values(results, row, claim.metric) for row in (*claim.over, *claim.under)}
    missing = [row for row, found in values.items() if not found]
    if missing:
        return Verdict("not measured", f"no result of {', '.join(missing)}")

    def mean(row: str) -> float:
        return statistics.mean(values[row].values())

    over = (max if claim.pick == "best" else min)(claim.over, key=mean)
    under = max(claim.under, key=mean)
    differences = _paired(values[over], values[under])
    what = f"{over} - {under}, {claim.metric}"
    why = _describe(differences, what)
    if len(differences) < 2:
        return Verdict("too few seeds", why)
    low, high = interval(differences)
    ahead = sum(d > claim.by for d in differences)
    why += f"; {ahead} of {len(differences)} seeds agree"
    if low > claim.by:
        return Verdict("holds", why)
    return Verdict("does not hold" if high <= claim.by else "undecided", why)


def _near(differences: Sequence[float], margin: float, what: str) -> Verdict:
    why = _describe(differences, what)
    if len(differences) < 2:
        return Verdict("too few seeds", why)
    low, high = interval(differences)
    if -margin <= low and high <= margin:
        return Verdict("holds", why)
    apart = low > margin or high < -margin
    return Verdict("does not hold" if apart else "undecided", why)


def _describe(differences: Sequence[float], what: str) -> str:
    if not differences:
        return f"{what}: no seed in common"
    mean = f"{what}: {statistics.mean(differences):+.2f}"
    if len(differences) < 2:
        return f"{mean} on one seed"
    low, high = interval(differences)
    return f"{mean}, 95 % interval {low:+.2f} to {high:+.2f}, {len(differences)} seeds"


def _fails(claim: Fails, results: Results) -> Verdict:
    runs = results.get(claim.row, {})
    if not runs:
        return Verdict("not measured", f"no result of {claim.row}")
    steps = [r.diverged_at for r in runs.values() if r.diverged_at is not None]
    low = [r for r in runs.values() if r.diverged_at is None and (r.value("AP") or 0) < claim.below]
    failed = len(steps) + len(low)
    why = f"{claim.row}: {len(steps)} of {len(runs)} diverged"
    if steps:
        why += f" (step {', '.join(map(str, sorted(steps)))})"
    why += f", {len(low)} ended below {claim.below:g} AP"
    if 0 < failed < len(runs):
        return Verdict("undecided", why)
    if len(runs) < 2:
        return Verdict("too few seeds", why)
    return Verdict("holds" if (failed > 0) == claim.expected else "does not hold", why)
