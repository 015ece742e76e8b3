"""What figures read from the folder of a reproduced table: ``table.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hyperfocal.types import DataError


class TableRow(NamedTuple):
    """A line of a reproduced table.

    Attributes:
        name: as in the table.
        published: by column, what the paper has; AP in points.
        ours: by column, the mean over seeds, nan where nothing was measured.
        seeds: AP of each run, 0 where it diverged.
    """

    name: str
    published: Mapping[str, float]
    ours: Mapping[str, float]
    seeds: tuple[float, ...]


class ReproducedTable(NamedTuple):
    """A table that `hyperfocal reproduce` wrote.

    Attributes:
        name: what it was called on the command line.
        rows: all of them, measured or not.
    """

    name: str
    rows: tuple[TableRow, ...]


def read_table(folder: Path) -> ReproducedTable:
    """Read ``folder/table.json``.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / "table.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(
            TableRow(
                str(row["name"]),
                {name: float(value) for name, value in row["published"].items()},
                {
                    name: math.nan if found is None else float(found["mean"])
                    for name, found in row["ours"].items()
                },
                tuple(_ap(run) for run in row["runs"].values()),
            )
            for row in table["rows"]
        )
        return ReproducedTable(str(table["table"]), rows)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: not a reproduced table ({error!r})") from None


def _ap(run: Mapping[str, Any]) -> float:
    return 0.0 if run["diverged_at"] is not None else float(run["metrics"].get("AP", math.nan))
