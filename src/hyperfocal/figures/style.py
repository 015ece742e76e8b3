"""Shared style of the figures, with colours suitable for colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperfocal.fonts import use_fallback_fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK = "#000000"
GREY = "#8c8c8c"
BLUE = "#0072b2"
VERMILLION = "#d55e00"
GREEN = "#009e73"
ORANGE = "#e69f00"
SKY = "#56b4e9"
PURPLE = "#cc79a7"
YELLOW = "#f0e442"

OKABE_ITO = (BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, YELLOW)
"""Okabe and Ito's palette (2008) without black."""

GROUP_NAMES = {"r": "rare", "c": "common", "f": "frequent"}
"""Full names of LVIS's groups; other groups are shown by their names."""


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """One colour per frequency group, from rarest to most frequent; the same in all figures."""
    order = (VERMILLION, ORANGE, BLUE, GREEN, PURPLE, SKY, YELLOW)
    return {group: order[i % len(order)] for i, group in enumerate(groups)}


def ordered_colours(count: int) -> list[str]:
    """Colours for ordered values, dark to light; distinguishable in greyscale."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    shades = colormaps["viridis"]
    return [to_hex(shades(0.9 * i / max(count - 1, 1))) for i in range(count)]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, size in inches, created without pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def tidy(axes: Axes, grid: bool = True) -> None:
    """Remove the top and right spines, and add a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)


def save(figure: Figure, out: str | Path) -> Path:
    """Write the figure in the format of the file's extension and return the path."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    use_fallback_fonts(figure)
    # No date in the file, so that the same data give the same file.
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
    return out
