"""Cumulative loss of positive and negative samples: the focal-loss paper's Fig. 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperfocal.figures import style
from hyperfocal.figures.export import Column, FigureData
from hyperfocal.figures.run_files import Series
from hyperfocal.fonts import figure_label

GAMMAS = (0.0, 0.5, 1.0, 2.0)

FRACTIONS = np.concatenate([np.linspace(0, 0.999, 1000), 1 - np.logspace(-3, -7, 41)[1:], [1.0]])
"""Fractions at which curves are evaluated: 0.001 apart, and closer for the hardest samples."""


@dataclass(frozen=True)
class RunLogits:
    """x_t of a run's positive and negative samples.

    Attributes:
        run: name of the run.
        positive: ``(P,)`` logits of positives.
        negative: ``(N,)`` negated logits of negatives.
    """

    run: str
    positive: NDArray[np.floating[Any]]
    negative: NDArray[np.floating[Any]]


def cumulative_figure(runs: Sequence[RunLogits]) -> FigureData:
    """Focal-loss paper, Fig. 4: cumulative normalised focal loss of a trained detector's samples.

    Positives left, negatives right: the losses sorted from the easiest sample to the hardest,
    cumulated and divided by their sum, for several γ applied to the same predictions. A sample is
    one logit (not specified in the paper). alpha cancels. One row per run.
    """
    figure = style.new_figure(8.6, 0.5 + 3.4 * len(runs))
    grid = figure.subplots(len(runs), 2, squeeze=False)
    columns: dict[str, Column] = {"fraction": FRACTIONS}
    colours = style.ordered_colours(len(GAMMAS))
    for row, logits in zip(grid, runs, strict=True):
        sides = (("positive", logits.positive), ("negative", logits.negative))
        for axes, (side, x_t) in zip(row, sides, strict=True):
            hardest_last = np.sort(x_t)[::-1]  # focal loss decreases with x_t for any γ
            for gamma, colour in zip(GAMMAS, colours, strict=True):
                values = cumulative_loss(hardest_last, gamma)
                columns[f"{logits.run}, {side}, gamma={gamma:g}"] = values
                label = f"γ = {gamma:g}"
                axes.plot(FRACTIONS, values, color=colour, linewidth=2, label=label)
            axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=f"fraction of {side} samples")
            axes.set_title(f"{figure_label(logits.run)}: {len(x_t):,} {side}s", fontsize=10)
            style.tidy(axes)
        row[0].set_ylabel("cumulative normalised loss")
        row[0].legend(frameon=False)
    return FigureData(figure, columns)


def cumulative_loss(x_t: NDArray[np.floating[Any]], gamma: float) -> Series:
    """Fraction of the loss that is due to the easiest samples, at `FRACTIONS` of them.

    Linearly interpolated between samples.

    Args:
        x_t: ``(N,)``, descending.
        gamma: γ of the focal loss.

    Returns:
        ``(len(FRACTIONS),)``; nan without samples.
    """
    if not len(x_t):
        return np.full(len(FRACTIONS), np.nan)
    total = np.cumsum(focal_loss(x_t, gamma))
    shares = np.concatenate([[0.0], total / total[-1]])
    return np.asarray(np.interp(FRACTIONS * len(x_t), np.arange(len(shares)), shares))


def focal_loss(x_t: NDArray[np.floating[Any]], gamma: float) -> Series:
    """``(1 - p_t)^γ (-log p_t)`` in float64, without alpha; accurate for the easiest samples."""
    x = x_t.astype(np.float64)
    cross_entropy = np.logaddexp(0, -x)
    modulator = np.exp(-gamma * np.logaddexp(0, x))
    return np.asarray(modulator * cross_entropy)
