"""The two charts of the HTML report, as SVG: categories by frequency, boxes by size and shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hyperfocal.figures.style import BLUE, GREY, GROUP_NAMES, VERMILLION, group_colours
from hyperfocal.inspection.anchors import BoxTable
from hyperfocal.names import for_html, one_name

WIDTH, HEIGHT = 900, 240
_LEFT, _RIGHT, _BOTTOM, _TOP = 56, 20, 26, 12


def category_chart(
    names: Sequence[str],
    images: Sequence[int],
    groups: Sequence[str | None],
    group_names: Sequence[str],
) -> str:
    """Bars of training images per category, most frequent first, log axis, coloured by group."""
    order = sorted(range(len(names)), key=lambda k: -images[k])
    colours = group_colours(group_names)
    top = max([*images, 1])
    decades = max(1, math.ceil(math.log10(top + 1)))
    plot_h, plot_w = HEIGHT - _BOTTOM - _TOP, WIDTH - _LEFT - _RIGHT
    step = plot_w / max(len(names), 1)
    parts = []
    for decade in range(decades + 1):
        y = _TOP + plot_h * (1 - decade / decades)
        parts.append(_line(_LEFT, y, WIDTH - _RIGHT, y, "#ddd"))
        parts.append(_text(_LEFT - 6, y + 4, f"{10**decade:,}", "end"))
    for place, k in enumerate(order):
        # Categories with one image or none get a minimum height, so that their tooltip works.
        height = max(2.0, plot_h * math.log10(max(images[k], 1)) / decades)
        colour = colours.get(groups[k] or "", GREY)
        title = for_html(f"{one_name(names[k])}: {images[k]} training images")
        parts.append(
            f'<rect x="{_LEFT + place * step:.2f}" y="{_TOP + plot_h - height:.2f}" '
            f'width="{max(step * 0.85, 0.5):.2f}" height="{height:.2f}" fill="{colour}">'
            f"<title>{title}</title></rect>"
        )
    parts.append(_text(_LEFT, HEIGHT - 8, "categories, most frequent first"))
    x = 300.0
    for group in group_names:
        number = sum(g == group for g in groups)
        label = f"{GROUP_NAMES.get(group, group)}: {number}"
        parts.append(
            f'<rect x="{x}" y="{HEIGHT - 17}" width="10" height="10" fill="{colours[group]}"/>'
        )
        parts.append(_text(x + 14, HEIGHT - 8, label))
        x += 30 + 7.5 * len(label)
    return _svg(parts, "Training images per category")


def box_chart(table: BoxTable, shapes: Sequence[tuple[float, float]]) -> str:
    """Boxes by size and height / width after the resize, with the anchors' shapes as rings.

    Args:
        table: the boxes.
        shapes: size in pixels and ratio of every anchor shape; may be empty.
    """
    x_range, y_range = (1.0, 11.0), (-4.0, 4.0)  # log2: 2 to 2048 px, 1:16 to 16:1
    columns, rows = 60, 32
    plot_h, plot_w = HEIGHT + 60 - _BOTTOM - _TOP, WIDTH - _LEFT - _RIGHT

    def place(log_side: float, log_ratio: float) -> tuple[float, float]:
        x = (log_side - x_range[0]) / (x_range[1] - x_range[0])
        y = (log_ratio - y_range[0]) / (y_range[1] - y_range[0])
        return _LEFT + plot_w * x, _TOP + plot_h * (1 - y)

    parts = []
    for exponent in range(1, 12):
        x, _ = place(exponent, 0)
        parts.append(_line(x, _TOP, x, _TOP + plot_h, "#eee"))
        parts.append(_text(x, _TOP + plot_h + 14, f"{2**exponent}", "middle"))
    for exponent in (-4, -2, 0, 2, 4):
        _, y = place(1, exponent)
        label = f"{2**exponent}:1" if exponent >= 0 else f"1:{2**-exponent}"
        parts.append(_line(_LEFT, y, WIDTH - _RIGHT, y, "#eee"))
        parts.append(_text(_LEFT - 6, y + 4, label, "end"))
    if len(table.boxes):
        sides = np.clip(np.log2(table.side), x_range[0], x_range[1] - 1e-6)
        ratios = np.clip(np.log2(table.ratio), y_range[0], y_range[1] - 1e-6)
        cells, _, _ = np.histogram2d(sides, ratios, (columns, rows), (x_range, y_range))
        full = math.log1p(cells.max())
        w, h = plot_w / columns, plot_h / rows
        for column, row in np.argwhere(cells > 0).tolist():
            number = int(cells[column, row])
            shade = 0.12 + 0.88 * math.log1p(number) / full
            parts.append(
                f'<rect x="{_LEFT + column * w:.1f}" y="{_TOP + plot_h - (row + 1) * h:.1f}" '
                f'width="{w:.1f}" height="{h:.1f}" fill="{BLUE}" fill-opacity="{shade:.2f}">'
                f"<title>{number} boxes</title></rect>"
            )
    for side, ratio in shapes:
        x, y = place(math.log2(side), math.log2(ratio))
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none" stroke="{VERMILLION}" '
            f'stroke-width="1.5"><title>anchor {side:.0f} px, ratio {ratio:g}</title></circle>'
        )
    return _svg(parts, "Boxes by size and shape", HEIGHT + 60)


def _svg(parts: Sequence[str], label: str, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{for_html(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{for_html(text)}</text>'
