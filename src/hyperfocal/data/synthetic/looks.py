"""Shapes, colours and fills of the synthetic dataset's categories."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 35),
    "blue": (40, 75, 205),
    "yellow": (245, 210, 40),
    "green": (40, 150, 55),
    "pink": (245, 130, 195),
    "teal": (35, 185, 185),
    "brown": (115, 65, 25),
    "white": (240, 240, 240),
    "purple": (125, 45, 165),
    "orange": (245, 130, 25),
}

FILLS = ("plain", "striped", "hollow", "dotted", "cored", "checked")


def _ring(count: int, radius: float | tuple[float, ...], turn: float = 0.0) -> NDArray[np.float64]:
    """``count`` points around the origin, at radii that repeat; the first one points up."""
    angles = 2 * np.pi * np.arange(count) / count + turn
    radii = np.resize(np.asarray(radius, dtype=np.float64), count)
    return np.stack([np.sin(angles) * radii, -np.cos(angles) * radii], axis=1)


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -y / 16], axis=1)


def _crescent() -> NDArray[np.float64]:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 28)
    inner = outer[::-1]
    out = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    # An ellipse through the same two horns, bulging the same way.
    horn = np.cos(outer[0])
    hollow = np.stack([horn + 0.62 * (np.cos(inner) - horn), np.sin(inner)], axis=1)
    return np.concatenate([out, hollow])


def _outline(*points: tuple[float, float]) -> NDArray[np.float64]:
    return np.asarray(points, dtype=np.float64)


SHAPES: dict[str, NDArray[np.float64]] = {
    "disc": _ring(40, 1.0),
    "star": _ring(10, (1.0, 0.42)),
    "square": _ring(4, 1.0, np.pi / 4),
    "arrow": _outline(
        (0, -1), (0.8, -0.1), (0.32, -0.1), (0.32, 1), (-0.32, 1), (-0.32, -0.1), (-0.8, -0.1)
    ),
    "heart": _heart(),
    "triangle": _ring(3, 1.0),
    "crescent": _crescent(),
    "cross": _outline(
        *((-0.34, -1), (0.34, -1), (0.34, -0.34), (1, -0.34), (1, 0.34), (0.34, 0.34)),
        *((0.34, 1), (-0.34, 1), (-0.34, 0.34), (-1, 0.34), (-1, -0.34), (-0.34, -0.34)),
    ),
    "diamond": _outline((0, -1), (0.68, 0), (0, 1), (-0.68, 0)),
    "hourglass": _outline((-0.8, -1), (0.8, -1), (0.16, 0), (0.8, 1), (-0.8, 1), (-0.16, 0)),
    "house": _outline(
        (0, -1), (0.9, -0.15), (0.65, -0.15), (0.65, 0.9), (-0.65, 0.9),
        (-0.65, -0.15), (-0.9, -0.15),
    ),
    "bolt": _outline((0.25, -1), (-0.7, 0.2), (-0.1, 0.2), (-0.3, 1), (0.7, -0.25), (0.1, -0.25)),
}  # fmt: skip
"""Closed polygons, x right and y down, inside the unit circle or nearly so."""


class Look(NamedTuple):
    """Shape, colour and fill of a category's objects."""

    shape: str
    colour: str
    fill: str


def category_look(label: int) -> Look:
    """Shape, colour and fill of the category with this label.

    Among the labels ``0..59``, each pair of colour and fill occurs once, and each of the two occurs
    at most once with each shape: two categories never share more than one of the three.
    """
    colour = label % len(COLOURS)
    fill = (label + label // 30) % len(FILLS)
    shape = (colour + 2 * fill) % len(SHAPES)
    return Look(tuple(SHAPES)[shape], tuple(COLOURS)[colour], FILLS[fill])
