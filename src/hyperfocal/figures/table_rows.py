"""Plot of a reproduced table: AP of each row as published and for each of our seeds."""

from __future__ import annotations

import math

from hyperfocal.figures import style
from hyperfocal.figures.export import Column, FigureData
from hyperfocal.figures.table_files import ReproducedTable
from hyperfocal.fonts import figure_label


def table_figure(table: ReproducedTable) -> FigureData:
    """AP of the rows in the paper's order: published, and ours with one dot per seed and the mean.

    Data and schedules differ, so each side has a separate axis: compare the shapes, not the values.
    A run that diverged has AP 0.
    """
    rows, metric = table.rows, table.metric
    figure = style.new_figure(8.6, 1.3 + 0.28 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    published = [row.published.get(metric, math.nan) for row in rows]
    means = [row.ours.get(metric, math.nan) for row in rows]
    left.plot(published, places, "D", color=style.BLACK, markersize=5)
    right.plot(means, places, "|", color=style.BLUE, markersize=14, markeredgewidth=2.5)
    for place, row in enumerate(rows):
        right.plot(row.seeds, [place] * len(row.seeds), "o", color=style.BLUE, alpha=0.5, ms=5)
    left.set(
        title="published", yticks=list(places), yticklabels=[figure_label(r.name) for r in rows]
    )
    left.invert_yaxis()
    right.set(title="here: seeds and mean")
    for axes in (left, right):
        axes.set(xlabel=metric)
        style.tidy(axes, grid=False)
        axes.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    most = max((len(row.seeds) for row in rows), default=0)
    columns: dict[str, Column] = {
        "row": [row.name for row in rows],
        f"published {metric}": published,
        metric: means,
    }
    for number in range(most):
        columns[f"{metric}, run {number + 1}"] = [
            row.seeds[number] if number < len(row.seeds) else math.nan for row in rows
        ]
    return FigureData(figure, columns)
