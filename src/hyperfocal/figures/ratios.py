"""Plot of the categories' gradient ratios over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyperfocal.figures import style
from hyperfocal.figures.ratio_files import (
    RatioHistory,
    TrainedCategory,
    read_categories,
    read_ratios,
)
from hyperfocal.figures.run_files import Series
from hyperfocal.fonts import figure_label
from hyperfocal.losses._core.memory import BALANCED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMES = 16
"""If there are more categories, each group has a median and a band instead of named lines."""

BANDS = ((0, 100), (10, 90))
"""Percentiles of a group's bands."""


def ratio_figure(run: str | Path, out: str | Path) -> Path:
    """Plot the gradient ratio of each category against the step, coloured by frequency group.

    The ratio is the one that the loss uses: 1 (or more, with EQLv2) means that a category is
    treated as balanced. With few categories each line is labelled at its end; with many there are
    the median of each group, a band with all of its categories and a darker one with the middle
    80 %. The legend has the number of categories that are at 1 at the end.

    Args:
        run: run folder with a ``ratios.jsonl``.
        out: image file to write; the extension determines the format.

    Returns:
        ``out``.

    Raises:
        DataError: the run has no valid ratios.
    """
    run = Path(run)
    history = read_ratios(run)
    categories, groups = read_categories(run)
    figure = style.new_figure(7.6, 4.2)
    axes = figure.subplots()
    bounded = history.ratio.max() <= 1
    if bounded:
        axes.set_ylim(-0.02, 1.02)
    else:
        axes.set_yscale("log")
        axes.axhline(1, color=style.BLACK, linewidth=0.8, linestyle=":")
    if len(history.steps) > 1:
        axes.set_xscale("log")
        axes.set_xlim(history.steps[0], history.steps[-1])
    _draw(axes, history, categories, groups)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="step", ylabel="gradient ratio (positive / negative)")
    style.tidy(axes)
    return style.save(figure, out)


def group_members(
    categories: Sequence[TrainedCategory], groups: Sequence[str]
) -> dict[str | None, list[int]]:
    """Labels of each non-empty group, rarest first; None: frequency unknown, or 0."""
    known = {g: [k for k, c in enumerate(categories) if c.group == g] for g in (*groups, None)}
    return {group: members for group, members in known.items() if members}


def _draw(
    axes: Axes,
    history: RatioHistory,
    categories: Sequence[TrainedCategory],
    groups: Sequence[str],
) -> None:
    colours = style.group_colours(groups)
    few = len(categories) <= MOST_NAMES
    for group, members in group_members(categories, groups).items():
        colour = colours.get(group or "", style.GREY)
        values = history.ratio[:, members]
        if few:
            axes.plot(history.steps, values, color=colour, linewidth=1.6)
        else:
            for band in BANDS:
                low, high = np.percentile(values, band, axis=1)
                axes.fill_between(history.steps, low, high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(history.steps, np.median(values, axis=1), color=colour, linewidth=2.2)
        name = "not in training" if group is None else style.GROUP_NAMES.get(group, group)
        at_one = int((values[-1] >= BALANCED).sum())
        axes.plot(
            [], [], color=colour, label=f"{figure_label(name)}: {at_one} of {len(members)} at 1"
        )
    axes.legend(
        frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(groups) + 1
    )
    if few:
        _name(axes, history.ratio[-1], categories, colours)


def _name(
    axes: Axes,
    last: Series,
    categories: Sequence[TrainedCategory],
    colours: dict[str, str],
) -> None:
    """Write each category's name next to the end of its line, without overlaps."""
    low, high = axes.get_ylim()
    if axes.get_yscale() == "log":
        place = np.log(np.maximum(last, low) / low) / np.log(high / low)
    else:
        place = (last - low) / (high - low)
    order = np.argsort(place, kind="stable")
    for label, y in zip(order, spread(place[order], 0.055), strict=True):
        axes.annotate(
            figure_label(categories[label].name),
            (1, y),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colours.get(categories[label].group or "", style.GREY),
            annotation_clip=False,
        )


def spread(places: Series, gap: float) -> Series:
    """Move ascending positions apart to at least ``gap``, as little as possible (least squares).

    Positions outside [0, 1] are then shifted back together, if there is space.
    """
    steps = gap * np.arange(len(places))
    blocks: list[tuple[float, int]] = []  # mean and size; means are ascending
    for value in places - steps:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] >= mean:
            before, count = blocks.pop()
            mean, size = (mean * size + before * count) / (size + count), size + count
        blocks.append((mean, size))
    moved: Series = (
        np.concatenate([*(np.full(size, mean) for mean, size in blocks), steps[:0]]) + steps
    )
    if len(moved):
        moved -= max(moved[-1] - 1, 0)
        moved += max(-moved[0], 0)
    return moved
