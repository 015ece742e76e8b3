"""What a published table is made of: rows, and the conclusions drawn from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hyperfocal.data.synthetic import SyntheticConfig

DEMO_SET = SyntheticConfig()
"""What `hyperfocal demo` draws."""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: a short word for it, also its folder and what ``--only`` takes.
        flags: what `hyperfocal train RECIPE` needs for it.
        numbers: as published, in the table's columns; empty where the paper has none.
        recipe: its own recipe, where a table compares detectors; None: the table's.
        small_flags: in place of ``flags`` at small scale; None: the same.
        runnable: False for detectors that are not here (two-stage ones).
    """

    name: str
    flags: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()
    recipe: str | None = None
    small_flags: tuple[str, ...] | None = None
    runnable: bool = True


@dataclass(frozen=True)
class Exceeds:
    """``pick(over)`` exceeds ``max(under)`` by more than ``by``.

    Attributes:
        text: the conclusion in words.
        over: rows that should have the greater value.
        under: rows that they are compared with; the best of these counts.
        by: points that the difference must exceed; negative: may fall short by.
        pick: which of ``over`` counts.
        metric: what is compared.
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
    """A row diverges: its loss stops being finite, or it ends below ``below`` points.

    Attributes:
        text: the conclusion in words.
        row: which one.
        below: AP points under which a training counts as failed.
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
        name: what `hyperfocal reproduce` takes.
        title: paper, table, and what it varies.
        recipe: where its rows start from.
        flags: what all rows need at full scale, beside the recipe.
        columns: what is published; metrics of an evaluation, and ``ms``.
        rows: in the paper's order.
        claims: what the paper concludes.
        setting: data and schedule of the published numbers.
        notes: what a reader should know.
        timed: whether inference is timed after the trainings.
        small_flags: what all rows need at small scale.
        small_set: what is drawn at small scale.
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
