"""Export of a figure as PNG and SVG, with its data as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperfocal.figures import style
from hyperfocal.names import for_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Column = Sequence[object] | NDArray[Any]

Columns = Mapping[str, Column]
"""A table by columns, all of the same length."""


class FigureData(NamedTuple):
    """A figure and its data.

    Attributes:
        figure: the matplotlib figure.
        columns: the plotted data; nan and None become empty cells.
    """

    figure: Figure
    columns: Columns


def export(data: FigureData, out: Path, name: str) -> list[Path]:
    """Write ``name``.png, .svg and .csv into the folder ``out`` and return their paths.

    Raises:
        ValueError: columns of different lengths.
    """
    paths = [style.save(data.figure, out / f"{name}.{ending}") for ending in ("png", "svg")]
    table = out / f"{name}.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow([_cell(name) for name in data.columns])
        for row in zip(*data.columns.values(), strict=True):
            write.writerow([_cell(value) for value in row])
    return [*paths, table]


def unique_names(names: Iterable[str]) -> list[str]:
    """The names, with numbers appended to duplicates, so that column names are unique."""
    given: list[str] = []
    for name in names:
        number, found = 1, name
        while found in given:
            number += 1
            found = f"{name} ({number})"
        given.append(found)
    return given


def _cell(value: object) -> object:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.6g}"
    if isinstance(value, str):
        return for_csv(value)
    return "" if value is None else value
