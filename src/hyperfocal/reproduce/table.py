"""Published tables: their rows and conclusions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hyperfocal.data.synthetic import SyntheticConfig

DEMO_SET = SyntheticConfig()
"""The dataset of `hyperfocal demo`."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: short name, also of its folder and for ``--only``.
        flags: for `hyperfocal train RECIPE`.
        numbers: as published, in the table's columns; empty if the paper has none.
        recipe: its own recipe, if the table compares detectors; None: the table's.
        small_flags: instead of ``flags`` at small scale; None: the same.
        takes_small_flags: whether the table's ``small_flags`` apply to it, which may be settings of
            a dense detector.
        after: for decoupled training, the row whose trained weights it starts from.
        runnable: False if there is no recipe for the row; only its published numbers are listed.
    """

    name: str
    flags: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()
    recipe: str | None = None
    small_flags: tuple[str, ...] | None = None
    runnable: bool = True
    after: str | None = None
    takes_small_flags: bool = True


@dataclass(frozen=True)
class Exceeds:
    """``pick(over)`` exceeds ``max(under)`` by more than ``by``.

    Attributes:
        text: the conclusion in words.
        over: rows that should have the higher value.
        under: rows to compare with; the best of them is used.
        by: points that the difference must exceed; negative: it may be lower by that much.
        pick: which of ``over`` is used.
        metric: the metric to compare.
    """

    text: str
    over: tuple[str, ...]
    under: tuple[str, ...]
    by: float = 0.0
    pick: Literal["best", "worst"] = "best"
    metric: str = "AP"


@dataclass(frozen=True)
class Within:
    """Two rows differ by at most ``margin`` points."""

    text: str
    row: str
    other: str
    margin: float
    metric: str = "AP"


@dataclass(frozen=True)
class Fails:
    """A row diverges: its loss becomes infinite or NaN, or it ends below ``below`` points.

    Attributes:
        text: the conclusion in words.
        row: which one.
        below: AP points below which a training has failed.
        expected: False: the conclusion is that it doesn't fail.
    """

    text: str
    row: str
    below: float = 0.5
    expected: bool = True


Claim = Exceeds | Within | Fails


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        name: for `hyperfocal reproduce`.
        title: paper, table, and what it varies.
        recipe: the recipe that its rows change.
        flags: for all rows at full scale, besides the recipe.
        columns: the published metrics of an evaluation, and ``ms``.
        rows: in the paper's order.
        claims: the paper's conclusions.
        setting: data and schedule of the published numbers.
        notes: remarks for the reader.
        timed: whether inference is timed after the trainings.
        small_flags: for all rows at small scale.
        small_set: the synthetic dataset at small scale.
    """

    name: str
    title: str
    recipe: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    setting: str
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    timed: bool = False
    small_flags: tuple[str, ...] = ()
    small_set: SyntheticConfig = DEMO_SET

    def published(self, row: str, metric: str) -> float | None:
        """A published number, in points (ms for ``ms``)."""
        (found,) = [r for r in self.rows if r.name == row]
        return dict(zip(self.columns, found.numbers, strict=False)).get(metric)
