"""Plot of loss and AP over training steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyperfocal.figures import style
from hyperfocal.figures.run_files import Log, Series, read_log
from hyperfocal.fonts import figure_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS_LOOKS = {
    "loss": ("sum", style.BLACK),
    "classification": ("classification", style.BLUE),
    "box": ("box", style.VERMILLION),
    "quality": ("quality", style.GREEN),
}


def training_curves(run: str | Path, out: str | Path) -> Path:
    """Plot the loss terms, and AP overall and by frequency group, against the step.

    Raw losses are faint; the lines are moving averages over 1/50 of the run. For a run without
    evaluations only losses are plotted.

    Args:
        run: run folder with a ``metrics.jsonl``.
        out: image file to write; the extension determines the format.

    Returns:
        ``out``.

    Raises:
        DataError: the run has no log, or a damaged one.
    """
    log = read_log(Path(run))
    measured = len(log.evaluated) > 0
    figure = style.new_figure(9.6 if measured else 5.2, 3.7)
    axes = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    _draw_losses(axes[0], log)
    if measured:
        _draw_ap(axes[1], log)
    return style.save(figure, out)


def moving_average(values: Series) -> Series:
    """Centred mean over 1/50 of the values (fewer at the ends), of the same length."""
    window = np.ones(1 + 2 * (len(values) // 100))
    if len(window) > len(values):
        return values
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _draw_losses(axes: Axes, log: Log) -> None:
    shown = []
    for term, values in log.losses.items():
        label, colour = LOSS_LOOKS[term]
        smooth = moving_average(values)
        shown.append(smooth)
        axes.plot(log.steps, values, color=colour, alpha=0.16, linewidth=0.8)
        axes.plot(log.steps, smooth, color=colour, linewidth=1.8, label=label)
    # Logarithmic, because the losses of the first steps may be much larger.
    positive = np.concatenate(shown)
    if (positive > 0).all() and positive.max() > 20 * positive.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0, top=1.05 * float(positive.max()))
    axes.set(title="Training loss", xlabel="step", xlim=(0, log.steps[-1]))
    axes.legend(frameon=False)
    style.tidy(axes)


def _draw_ap(axes: Axes, log: Log) -> None:
    colours = style.group_colours(log.groups)
    for group in reversed(log.groups):
        label = figure_label(f"AP{group}  {style.GROUP_NAMES.get(group, '')}".strip())
        values = log.metrics[f"AP{group}"]
        axes.plot(
            log.evaluated, values, color=colours[group], marker="o", markersize=3.5, label=label
        )
    for name, line in (("AP", "-"), ("AP50", "--")):
        if name in log.metrics:
            values = log.metrics[name]
            axes.plot(
                log.evaluated, values, color=style.BLACK, linestyle=line, linewidth=2, label=name
            )
            axes.annotate(
                f"{values[-1]:.3f}",
                (log.evaluated[-1], values[-1]),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                annotation_clip=False,
            )
    axes.set(title="AP on the validation split", xlabel="step", ylim=(0, 1))
    axes.set_xlim(0, max(log.steps[-1], log.evaluated[-1]))
    axes.legend(frameon=False, loc="upper left")
    style.tidy(axes)
