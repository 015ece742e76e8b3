"""Focal-loss paper, Fig. 2: accuracy against time, from a reproduced Table 1e."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperfocal.figures import style
from hyperfocal.figures.export import Column, Drawn
from hyperfocal.types import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Point(NamedTuple):
    """One detector.

    Attributes:
        name: ``depth-size``.
        published: ms an image and AP in points, as the paper has them.
        ours: the same, measured; nan where there is nothing.
    """

    name: str
    published: tuple[float, float]
    ours: tuple[float, float]


def read_points(folder: Path) -> list[Point]:
    """The rows of ``folder/table.json``.

    Raises:
        DataError: it is missing, damaged, or of a table without times.
    """
    path = folder / "table.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if "ms" not in table["columns"]:
            raise DataError(
                f"{path} is Table {table['table']}, which has no times; fl2 is drawn from the "
                "folder of `hyperfocal reproduce 1e`"
            )
        return [_point(row) for row in table["rows"]]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a reproduced table ({error!r})") from None


def speed_figure(points: Sequence[Point]) -> Drawn:
    """AP against ms an image: the published curves, and ours where it was measured.

    The clocks are of different machines and the data differ, so each has an axis of its own: the
    shapes are to be compared, not the heights.
    """
    figure = style.new_figure(8.6, 3.8)
    sides = figure.subplots(1, 2)
    titles = ("published (COCO test-dev, M40)", "here")
    for axes, which, title in zip(sides, ("published", "ours"), titles, strict=True):
        _draw(axes, points, which)
        axes.set(title=title, xlabel="ms an image", ylabel="AP")
        style.tidy(axes)
    sides[0].legend(frameon=False)
    columns: dict[str, Column] = {
        "row": [p.name for p in points],
        "published ms": [p.published[0] for p in points],
        "published AP": [p.published[1] for p in points],
        "ms": [p.ours[0] for p in points],
        "AP": [p.ours[1] for p in points],
    }
    return Drawn(figure, columns)


def _draw(axes: Axes, points: Sequence[Point], which: str) -> None:
    looks = (("o-", style.BLUE), ("s--", style.VERMILLION))
    depths = list(dict.fromkeys(p.name.partition("-")[0] for p in points))
    for depth, (line, colour) in zip(depths, looks, strict=False):
        own = [(p.name, *getattr(p, which)) for p in points if p.name.startswith(f"{depth}-")]
        own = [p for p in own if not math.isnan(p[1] + p[2])]
        axes.plot([p[1] for p in own], [p[2] for p in own], line, color=colour, label=depth)
        for name, ms, ap in own:
            axes.annotate(
                name.partition("-")[2], (ms, ap), xytext=(3, -10), textcoords="offset points",
                fontsize=8,
            )  # fmt: skip


def _point(row: dict[str, Any]) -> Point:
    def mean(metric: str) -> float:
        found = row["ours"][metric]
        return math.nan if found is None else float(found["mean"])

    published = row["published"]
    return Point(
        row["name"], (float(published["ms"]), float(published["AP"])), (mean("ms"), mean("AP"))
    )
