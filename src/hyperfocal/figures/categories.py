"""Plot of AP per category against training frequency."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyperfocal.figures import style
from hyperfocal.figures.run_files import CategoryRow, Measured, ap_groups, read_metrics
from hyperfocal.fonts import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMES = 80
"""Category names are omitted if there are more categories, because they would be unreadable."""


LEGEND_ENTRY = 1.6
"""Width of a legend entry in inches."""


def category_figure(run: str | Path, out: str | Path) -> Path:
    """Plot AP and AP50 per category above its training images, most frequent first.

    Bars are coloured by frequency group, and a line shows the mean AP of each group. Without
    training frequencies categories are sorted by ground-truth boxes in the evaluated split.

    Args:
        run: run folder with a ``metrics.json``.
        out: image file to write; the extension determines the format.

    Returns:
        ``out``.

    Raises:
        DataError: the run has no valid metrics.
    """
    measured = read_metrics(Path(run))
    rows = by_frequency(measured)
    names_shown = len(rows) <= MOST_NAMES
    figure = style.new_figure(_width(len(rows)), 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    _draw_ap(top, measured, rows)
    _draw_frequency(bottom, rows)
    bottom.set_xlim(-0.7, len(rows) - 0.3)
    if names_shown:
        bottom.set_xticks(range(len(rows)), [figure_label(row.name) for row in rows])
        bottom.tick_params(axis="x", labelsize=8, length=0)
        for label in bottom.get_xticklabels():
            label.set(rotation=50, ha="right", rotation_mode="anchor")
    else:
        bottom.set_xlabel("categories, from frequent to rare")
    return style.save(figure, out)


def by_frequency(measured: Measured) -> list[CategoryRow]:
    """The categories from most frequent in training to rarest."""
    return sorted(measured.categories, key=lambda row: -_frequency(row))


def _frequency(row: CategoryRow) -> int:
    return row.gt if row.train_images is None else row.train_images


def _draw_ap(axes: Axes, measured: Measured, rows: list[CategoryRow]) -> None:
    groups = ap_groups(measured.metrics)
    colours = style.group_colours(groups)
    # Open Images' protocol only has AP50.
    main = [row.AP50 if row.AP is None else row.AP for row in rows]
    ap = [math.nan if value is None else value for value in main]
    ap50 = [math.nan if row.AP50 is None else row.AP50 for row in rows]
    bar_colours = [colours.get(row.group or "", style.GREY) for row in rows]
    axes.bar(range(len(rows)), ap, color=bar_colours, width=0.75)
    axes.plot(
        range(len(rows)),
        ap50,
        linestyle="",
        marker="_",
        markersize=8,
        color=style.BLACK,
        label="AP50",
    )
    for group in reversed(groups):
        members = [i for i, row in enumerate(rows) if row.group == group]
        mean = measured.metrics[f"AP{group}"]
        name = figure_label(style.GROUP_NAMES.get(group, group))
        if not members:
            continue
        label = f"AP, {name}" + ("" if mean is None else f" (mean {mean:.3f})")
        axes.bar([0], [0], color=colours[group], label=label)
        if mean is not None:
            span = (members[0] - 0.45, members[-1] + 0.45)
            axes.plot(span, (mean, mean), color=style.BLACK, linewidth=1, linestyle=":")
    absent = [i for i, value in enumerate(main) if value is None]
    if absent:
        axes.plot(
            absent,
            np.zeros(len(absent)),
            linestyle="",
            marker="x",
            markersize=5,
            color=style.GREY,
            label="not in this split",
            clip_on=False,
        )
    # Space above 1 for the legend, because AP can be 1.
    entries = axes.get_legend_handles_labels()[1]
    columns = max(2, int((_width(len(rows)) - 1) / LEGEND_ENTRY))
    lines = -(-len(entries) // columns)
    axes.set(ylabel="AP", title="AP per category, most frequent in training first")
    axes.set_ylim(0, 1.04 + 0.1 * lines)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.tick_params(axis="x", length=0)
    legend = axes.legend(frameon=False, fontsize=8, ncols=columns, loc="upper center")
    legend.set_in_layout(False)  # it must not shrink the axes
    style.tidy(axes)


def _width(categories: int) -> float:
    """Width of the figure in inches."""
    return min(13.0, max(6.0, 3.0 + 0.3 * categories))


def _draw_frequency(axes: Axes, rows: list[CategoryRow]) -> None:
    counts = [_frequency(row) for row in rows]
    axes.bar(range(len(rows)), counts, color=style.GREY, width=0.75)
    known = any(row.train_images is not None for row in rows)
    axes.set_ylabel("training\nimages" if known else "boxes")
    if max(counts, default=0) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0.7)
    style.tidy(axes)
