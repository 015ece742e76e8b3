"""Whether a table's conclusion holds on results of several seeds, and how sure that is.

A difference is paired by seed where both sides have the seed: the mean of the pairs' differences
with Student's 95 % interval. A conclusion holds if the whole interval is on its side of the line,
doesn't hold if all of it is on the other, and is undecided between. Under two pairs there is no
interval. Which row is the best of several is chosen on the same results, which favours it a little.
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
    """What became of one run.

    Attributes:
        metrics: in points (AP of 0 to 100), ms in ms; empty where it diverged.
        diverged_at: step whose loss wasn't finite; None if it came to its end.
    """

    metrics: Mapping[str, float]
    diverged_at: int | None = None

    def value(self, metric: str) -> float | None:
        """A metric; a diverged run has detected nothing, so its AP is 0."""
        if self.diverged_at is not None and metric.startswith("AP"):
            return 0.0
        return self.metrics.get(metric)


Results = Mapping[str, Mapping[int, Outcome]]
"""By row and seed."""


@dataclass(frozen=True)
class Verdict:
    """A conclusion on our results.

    Attributes:
        answer: whether it holds.
        why: the numbers behind the answer.
    """

    answer: Answer
    why: str


def judge(claim: Claim, results: Results) -> Verdict:
    """Weigh one conclusion."""
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
    """97.5 % quantile of Student's t; above 10 degrees of freedom by its expansion, to 0.002."""
    if freedom <= len(EXACT_T):
        return EXACT_T[freedom - 1]
    z = NORMAL
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of at least two differences."""
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
    told = _told(differences, what)
    if len(differences) < 2:
        return Verdict("too few seeds", told)
    low, high = interval(differences)
    ahead = sum(d > claim.by for d in differences)
    told += f"; {ahead} of {len(differences)} seeds on its side"
    if low > claim.by:
        return Verdict("holds", told)
    return Verdict("does not hold" if high <= claim.by else "undecided", told)


def _near(differences: Sequence[float], margin: float, what: str) -> Verdict:
    told = _told(differences, what)
    if len(differences) < 2:
        return Verdict("too few seeds", told)
    low, high = interval(differences)
    if -margin <= low and high <= margin:
        return Verdict("holds", told)
    apart = low > margin or high < -margin
    return Verdict("does not hold" if apart else "undecided", told)


def _told(differences: Sequence[float], what: str) -> str:
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
    told = f"{claim.row}: {len(steps)} of {len(runs)} diverged"
    if steps:
        told += f" (step {', '.join(map(str, sorted(steps)))})"
    told += f", {len(low)} ended below {claim.below:g} AP"
    if 0 < failed < len(runs):
        return Verdict("undecided", told)
    if len(runs) < 2:
        return Verdict("too few seeds", told)
    return Verdict("holds" if (failed > 0) == claim.expected else "does not hold", told)
