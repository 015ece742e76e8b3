"""Focal-loss paper, Fig. 2: accuracy against time, from a reproduced Table 1e."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hyperfocal.figures import style
from hyperfocal.figures.export import Column, FigureData
from hyperfocal.figures.table_files import ReproducedTable
from hyperfocal.fonts import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def speed_figure(table: ReproducedTable) -> FigureData:
    """AP against ms per image: the published curves, and ours.

    Hardware and data differ, so each has a separate axis: compare the shapes, not the values.
    """
    figure = style.new_figure(8.6, 3.8)
    left, right = figure.subplots(1, 2)
    names = [row.name for row in table.rows]
    published, ours = [row.published for row in table.rows], [row.ours for row in table.rows]
    _draw(left, names, published)
    _draw(right, names, ours)
    left.set(title="published (COCO test-dev, M40)")
    right.set(title="here")
    for axes in (left, right):
        axes.set(xlabel="ms per image", ylabel="AP")
        style.tidy(axes)
    left.legend(frameon=False)
    columns: dict[str, Column] = {
        "row": names,
        "published ms": [values["ms"] for values in published],
        "published AP": [values["AP"] for values in published],
        "ms": [values["ms"] for values in ours],
        "AP": [values["AP"] for values in ours],
    }
    return FigureData(figure, columns)


def _draw(axes: Axes, names: Sequence[str], rows: Sequence[Mapping[str, float]]) -> None:
    """One curve per depth; rows are named depth-size."""
    looks = (("o-", style.BLUE), ("s--", style.VERMILLION))
    split = [name.partition("-") for name in names]
    for depth, (line, colour) in zip(dict.fromkeys(s[0] for s in split), looks, strict=False):
        own = [
            (size, row["ms"], row["AP"])
            for (of, _, size), row in zip(split, rows, strict=True)
            if of == depth and not math.isnan(row["ms"] + row["AP"])
        ]
        axes.plot(
            [p[1] for p in own], [p[2] for p in own], line, color=colour, label=figure_label(depth)
        )
        for size, ms, ap in own:
            axes.annotate(
                figure_label(size),
                (ms, ap),
                xytext=(3, -10),
                textcoords="offset points",
                fontsize=8,
            )
