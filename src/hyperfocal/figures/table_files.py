"""Reading of a reproduced table for figures: ``table.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hyperfocal.types import DataError


class TableRow(NamedTuple):
    """A row of a reproduced table.

    Attributes:
        name: name in the table.
        published: the paper's values by column; AP in points.
        ours: mean over seeds by column; nan if not measured.
        seeds: the table's first metric (usually AP) of each run; 0 if it diverged.
    """

    name: str
    published: Mapping[str, float]
    ours: Mapping[str, float]
    seeds: tuple[float, ...]


class ReproducedTable(NamedTuple):
    """A table written by `hyperfocal reproduce`.

    Attributes:
        name: name of the table on the command line.
        metric: main metric, the table's first column.
        rows: all rows, measured or not.
    """

    name: str
    metric: str
    rows: tuple[TableRow, ...]


def read_table(folder: Path) -> ReproducedTable:
    """Read ``folder/table.json``.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / "table.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        metric = str(table["columns"][0])
        rows = tuple(
            TableRow(
                str(row["name"]),
                {name: float(value) for name, value in row["published"].items()},
                {
                    name: math.nan if found is None else float(found["mean"])
                    for name, found in row["ours"].items()
                },
                tuple(_value(run, metric) for run in row["runs"].values()),
            )
            for row in table["rows"]
        )
        return ReproducedTable(str(table["table"]), metric, rows)
    except (OSError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: not a reproduced table ({error!r})") from None


def _value(run: Mapping[str, Any], metric: str) -> float:
    return 0.0 if run["diverged_at"] is not None else float(run["metrics"].get(metric, math.nan))
