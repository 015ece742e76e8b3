"""The papers' tables: rows as experiments, and conclusions as testable statements.

One file per paper (`focal_loss`, `equalized_focal`); `judge` tests a conclusion on results, `runs`
trains, `report` writes the results beside the published numbers.
"""

from __future__ import annotations

from hyperfocal.config import did_you_mean
from hyperfocal.reproduce.equalized_focal import TABLES as EFL_TABLES
from hyperfocal.reproduce.focal_loss import TABLES as FL_TABLES
from hyperfocal.reproduce.table import Row, Table
from hyperfocal.types import ConfigError

__all__ = ["TABLES", "Row", "Table", "find_row", "find_table"]

TABLES: dict[str, Table] = {table.name: table for table in (*FL_TABLES, *EFL_TABLES)}


def find_table(name: str) -> Table:
    """The table with this name.

    Raises:
        ConfigError: there is none.
    """
    if name in TABLES:
        return TABLES[name]
    raise ConfigError(f"no table {name!r}; {did_you_mean(name, TABLES)}")


def find_row(table: Table, name: str) -> Row:
    """The row with this name.

    Raises:
        ConfigError: the table has no such row, or there is no recipe for it.
    """
    rows = {row.name: row for row in table.rows}
    if name not in rows:
        hint = did_you_mean(name, rows)
        raise ConfigError(f"--only {name}: table {table.name} has no such row; {hint}")
    if not rows[name].runnable:
        raise ConfigError(
            f"--only {name}: there is no recipe for this row; only its published numbers are listed"
        )
    return rows[name]
