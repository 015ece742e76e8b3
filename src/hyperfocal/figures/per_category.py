"""Figures of the papers with one value per category and run: Equalized Focal Loss Figs. 2 and 4.

Categories are sorted from most frequent in training to rarest. If there are many, each is a faint
point and the line of a run is a running median, which shows the trend along the tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperfocal.figures import style
from hyperfocal.figures.export import Column, FigureData, unique_names
from hyperfocal.figures.ratio_files import TrainedCategory
from hyperfocal.figures.run_files import Series
from hyperfocal.fonts import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMES = 20
"""Category names are omitted if there are more categories, because they would be unreadable."""

MOST_MARKED = 40
"""If there are more categories, lines are running medians."""

LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class CategoryLine:
    """One value per category, for one run.

    Attributes:
        run: name of the run.
        values: ``(K,)`` by label; nan if undefined.
    """

    run: str
    values: Series


def imbalance_figure(
    samples: Sequence[CategoryLine],
    gradients: Sequence[CategoryLine],
    categories: Sequence[TrainedCategory],
) -> FigureData:
    """Equalized Focal Loss paper, Fig. 2, and the corresponding ratios of gradients.

    Left, as in the paper: the logarithm (base 10) of each category's number of positive samples
    over its number of negative samples, which depends on the assigner. Runs with the same assigner
    have the same line. Right: the same for the absolute gradients of each run's loss; 0 is
    balanced.

    Args:
        samples: one line per run, ratio of positive to negative samples.
        gradients: one line per run, ratio of positive to negative gradients.
        categories: by label.
    """
    figure = style.new_figure(10.5, 4.0)
    left, right = figure.subplots(1, 2)
    columns = category_columns(categories)
    order = by_frequency(categories)
    for axes, lines, what in (
        (left, _distinct(samples), "samples"),
        (right, gradients, "gradient"),
    ):
        logs = [CategoryLine(line.run, log10(line.values)) for line in lines]
        _draw(axes, logs, categories, order)
        axes.set_ylabel(f"$\\log_{{10}}$(positive / negative {what})")
        axes.set_title(f"{what} of each category")
        for name, line in zip(unique_names(x.run for x in logs), logs, strict=True):
            columns[f"log10 {what} ratio, {name}"] = line.values[order]
    right.axhline(0, color=style.BLACK, linewidth=0.8, linestyle=":")
    return FigureData(figure, columns)


def margin_figure(
    margins: Sequence[CategoryLine], categories: Sequence[TrainedCategory]
) -> FigureData:
    """Equalized Focal Loss paper, Fig. 4: mean score of positives minus that of negatives."""
    figure = style.new_figure(6.6, 4.0)
    axes = figure.subplots()
    order = by_frequency(categories)
    columns = category_columns(categories)
    _draw(axes, margins, categories, order)
    axes.set_ylabel("mean score of positives - of negatives")
    for name, line in zip(unique_names(x.run for x in margins), margins, strict=True):
        columns[f"score margin, {name}"] = line.values[order]
    return FigureData(figure, columns)


def by_frequency(categories: Sequence[TrainedCategory]) -> NDArray[np.int64]:
    """Labels from most frequent in training to rarest; in label order if unknown."""
    return np.argsort([-(c.train_images or 0) for c in categories], kind="stable")


def category_columns(categories: Sequence[TrainedCategory]) -> dict[str, Column]:
    """Rank, name, training images and group, from frequent to rare."""
    rows = [categories[label] for label in by_frequency(categories)]
    return {
        "rank": range(len(rows)),
        "category": [row.name for row in rows],
        "train_images": [row.train_images for row in rows],
        "group": [row.group for row in rows],
    }


def log10(values: Series) -> Series:
    """Logarithm; nan where it is undefined."""
    return np.log10(np.where(values > 0, values, np.nan))


def running_median(values: Series, width: int) -> Series:
    """Median of the ``width`` values around each (fewer at the ends), without nan."""
    half = width // 2
    windows = [values[max(i - half, 0) : i + half + 1] for i in range(len(values))]
    known = [window[~np.isnan(window)] for window in windows]
    return np.array([np.median(window) if len(window) else np.nan for window in known])


def _draw(
    axes: Axes,
    lines: Sequence[CategoryLine],
    categories: Sequence[TrainedCategory],
    order: NDArray[np.int64],
) -> None:
    many = len(order) > MOST_MARKED
    for n, line in enumerate(lines):
        values, colour = line.values[order], style.OKABE_ITO[n % len(style.OKABE_ITO)]
        if many:
            size = 2.5 if len(order) > 300 else 5
            axes.plot(values, ".", color=colour, markersize=size, alpha=0.4, markeredgewidth=0)
            values = running_median(values, max(len(order) // 20, 3))
        axes.plot(
            values,
            color=colour,
            linestyle=LINES[n % len(LINES)],
            linewidth=2,
            marker=None if many else "o",
            markersize=4,
            label=figure_label(line.run, most=120),
        )
    _mark_groups(axes, categories, order)
    axes.set_xlabel("categories, from frequent to rare in training")
    if len(order) <= MOST_NAMES:
        names = [figure_label(categories[label].name) for label in order]
        axes.set_xticks(range(len(order)), names, fontsize=7)
        for text in axes.get_xticklabels():
            text.set(rotation=50, ha="right", rotation_mode="anchor")
    if len(lines) > 1:
        axes.legend(frameon=False, bbox_to_anchor=(0, 0, 1, 0.94))  # below the groups' names
    style.tidy(axes)


def _mark_groups(
    axes: Axes, categories: Sequence[TrainedCategory], order: NDArray[np.int64]
) -> None:
    """Draw a line at the end of each frequency group, and the names of the groups at the top."""
    groups = [categories[label].group for label in order]
    starts = [i for i in range(len(groups)) if i == 0 or groups[i] != groups[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(groups)], strict=True):
        group = groups[start]
        if start:
            axes.axvline(start - 0.5, color=style.GREY, linewidth=0.8)
        if group is not None:
            name = figure_label(style.GROUP_NAMES.get(group, group))
            middle = (start + end - 1) / 2
            axes.annotate(
                name,
                (middle, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, -10),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=style.GREY,
            )


def _distinct(lines: Sequence[CategoryLine]) -> list[CategoryLine]:
    """Merge lines with the same values into one, with all names."""
    found: list[CategoryLine] = []
    for line in lines:
        same = [i for i, f in enumerate(found) if np.array_equal(f.values, line.values, True)]
        if same:
            first = found[same[0]]
            found[same[0]] = CategoryLine(f"{first.run}, {line.run}", first.values)
        else:
            found.append(line)
    return found
