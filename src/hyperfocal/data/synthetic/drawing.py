"""Images of the synthetic dataset: textured background, overlapping objects, ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from hyperfocal.data.synthetic.looks import COLOURS, SHAPES, Look, category_look

Pixels = NDArray[np.floating]

SUPERSAMPLE = 3
"""Edges are drawn on a canvas finer by this factor and averaged."""


class DrawnImage(NamedTuple):
    """One image and its ground truth.

    Attributes:
        pixels: ``(S, S, 3)`` uint8 RGB.
        boxes: ``(N, 4)`` float64 xyxy pixels of the whole object, including occluded parts.
        labels: ``(N,)`` int64.
        area: ``(N,)`` float64 px², the polygon's area.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    area: NDArray[np.float64]


def draw_image(
    labels: Sequence[int], size: int, sides: tuple[float, float], rng: np.random.Generator
) -> DrawnImage:
    """Draw objects on a random background.

    Objects overlap, but if there is room, no object covers more than 40 % of another.

    Args:
        labels: the category of each object.
        size: height and width of the image in pixels.
        sides: range of an object's longer side in pixels, sampled log-uniformly.
        rng: the random generator.
    """
    canvas = _background(size, rng)
    longer = np.exp(rng.uniform(np.log(sides[0]), np.log(sides[1]), len(labels)))
    order = np.argsort(-longer)  # small ones are drawn later, on top
    boxes: list[NDArray[np.float64]] = []
    areas: list[float] = []
    for index in order.tolist():
        look = category_look(labels[index])
        turn = _turn(rng)
        outline = SHAPES[look.shape] @ turn.T
        low, high = outline.min(axis=0), outline.max(axis=0)
        scale = longer[index] / (high - low).max()
        corner = _place(scale * (high - low), boxes, size, rng)
        origin = corner - scale * low
        points = scale * outline + origin
        _paint(canvas, look, points, origin, np.linalg.inv(scale * turn), rng)
        boxes.append(np.concatenate([points.min(axis=0), points.max(axis=0)]))
        x, y = points.T
        areas.append(abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2)
    return DrawnImage(
        _finish(canvas, rng),
        np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        np.asarray(labels, dtype=np.int64)[order],
        np.asarray(areas, dtype=np.float64),
    )


def _turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random linear map: up to 17 degrees of rotation and some stretching along one axis."""
    angle, stretch = rng.uniform(-0.3, 0.3), np.exp(rng.uniform(-0.2, 0.2))
    cos, sin = np.cos(angle), np.sin(angle)
    turn: NDArray[np.float64] = np.array([[cos, -sin], [sin, cos]])
    turn *= (stretch, 1 / stretch)
    return turn


def _place(
    extent: NDArray[np.float64],
    boxes: list[NDArray[np.float64]],
    size: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Top left corner for a new box that covers little of the earlier ones, from 24 attempts."""
    tried: NDArray[np.float64] = rng.uniform(0, 1, (24, 2)) * (size - extent)
    best = 0
    if boxes:
        old = np.stack(boxes)
        low = np.maximum(tried[:, None], old[:, :2])
        high = np.minimum(tried[:, None] + extent, old[:, 2:])
        hidden = (high - low).clip(min=0).prod(axis=2) / (old[:, 2:] - old[:, :2]).prod(axis=1)
        # The first that hides no more than 0.4 of any, else the one that hides least.
        best = int(hidden.max(axis=1).clip(min=0.4).argmin())
    corner: NDArray[np.float64] = tried[best]
    return corner


def _paint(
    canvas: Pixels,
    look: Look,
    points: NDArray[np.float64],
    origin: NDArray[np.float64],
    to_local: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Draw one object into the ``(S, S, 3)`` canvas, in place, with antialiased edges."""
    left, top = np.floor(points.min(axis=0)).astype(int)
    right, bottom = np.ceil(points.max(axis=0)).astype(int)
    left, top = max(left, 0), max(top, 0)
    patch = canvas[top:bottom, left:right]
    height, width = patch.shape[:2]

    def mask(share: float) -> Pixels:
        """Coverage of the outline shrunk towards its middle, 0 to 1."""
        middle = points.mean(axis=0)
        shrunk = (middle + share * (points - middle) - (left, top)) * SUPERSAMPLE
        # PIL's pixel centres lie on whole numbers.
        fine = Image.new("L", (width * SUPERSAMPLE, height * SUPERSAMPLE))
        ImageDraw.Draw(fine).polygon([tuple(p) for p in (shrunk - 0.5).tolist()], fill=255)
        return np.asarray(fine.reduce(SUPERSAMPLE), dtype=np.float32) / 255

    ys, xs = np.mgrid[top:bottom, left:right].astype(np.float32) + 0.5
    u = to_local[0, 0] * (xs - origin[0]) + to_local[0, 1] * (ys - origin[1])
    v = to_local[1, 0] * (xs - origin[0]) + to_local[1, 1] * (ys - origin[1])
    alpha = mask(1.0)
    second = np.zeros_like(alpha)  # where the second colour shows
    if look.fill == "striped":
        second = (np.sin(9.5 * u + 1.5) > 0).astype(np.float32)
    elif look.fill == "checked":
        second = (np.sin(7.0 * u) * np.sin(7.0 * v) > 0).astype(np.float32)
    elif look.fill == "dotted":
        second = (np.cos(10.5 * u) + np.cos(10.5 * v) > 0.7).astype(np.float32)
    elif look.fill == "cored":
        second = mask(0.5)
    elif look.fill == "hollow":
        alpha = alpha * (1 - mask(0.58))

    colour = np.asarray(COLOURS[look.colour], dtype=np.float32)
    bright = float(colour @ (0.3, 0.59, 0.11)) > 140
    contrast = np.full(3, 30.0 if bright else 235.0, dtype=np.float32)
    jitter = rng.normal(0, 9, 3).astype(np.float32)
    paint = colour + jitter + second[..., None] * (contrast - colour)
    # Light falls from one side.
    direction = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.22) * (np.cos(direction) * u + np.sin(direction) * v)
    paint = paint * light[..., None].astype(np.float32) * np.float32(rng.uniform(0.82, 1.08))
    patch += alpha[..., None] * (paint - patch)


def _background(size: int, rng: np.random.Generator) -> Pixels:
    """A gradient with noise at several scales, sometimes stripes, and strokes of any colour."""
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32) / size
    first, last = rng.uniform(45, 200, 3), rng.uniform(45, 200, 3)
    grey = rng.uniform(0.3, 0.9)  # towards grey: real backgrounds are seldom vivid
    first, last = (c + grey * (c.mean() - c) for c in (first, last))
    angle = rng.uniform(0, 2 * np.pi)
    ramp = (np.cos(angle) * (xs - 0.5) + np.sin(angle) * (ys - 0.5) + 0.7) / 1.4
    canvas: Pixels = (first + ramp[..., None] * (last - first)).astype(np.float32)
    for cells, amplitude in ((4, 26.0), (12, 18.0), (40, 14.0)):
        strength = amplitude * rng.uniform(0.3, 1.0)
        grid = rng.normal(128, strength, (cells, cells, 3 if cells == 4 else 1))
        grid = np.repeat(grid, 3 // grid.shape[2], axis=2).clip(0, 255).astype(np.uint8)
        noise = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
        canvas += np.asarray(noise, dtype=np.float32) - 128
    if rng.random() < 0.35:
        angle, waves = rng.uniform(0, np.pi), rng.uniform(4, 22)
        phase = 2 * np.pi * waves * (np.cos(angle) * xs + np.sin(angle) * ys)
        canvas += (rng.uniform(6, 20) * np.sin(phase))[..., None]
    return _strokes(canvas, rng)


def _strokes(canvas: Pixels, rng: np.random.Generator) -> Pixels:
    """Lines, arcs and fragments that belong to no category, also in the colours of objects."""
    size = len(canvas)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    palette = tuple(COLOURS.values())
    for _ in range(rng.integers(2, 9)):
        base = np.asarray(palette[rng.integers(len(palette))], dtype=np.float64)
        colour = tuple(int(c) for c in (base + rng.normal(0, 30, 3)).clip(0, 255))
        x, y = rng.uniform(0, size, 2)
        kind, reach = rng.integers(3), size * rng.uniform(0.05, 0.35)
        width = int(rng.integers(1, 2 + size // 50))
        if kind == 0:
            dx, dy = rng.normal(0, reach, 2)
            draw.line((x, y, x + dx, y + dy), fill=colour, width=width)
        elif kind == 1:
            start = rng.uniform(0, 360)
            box = (x - reach, y - reach, x + reach, y + reach * rng.uniform(0.5, 1))
            if box[3] > box[1]:
                draw.arc(box, start, start + rng.uniform(40, 160), fill=colour, width=width)
        else:
            corners = rng.normal((x, y), 0.3 * reach, (3, 2))
            draw.polygon([tuple(c) for c in corners.tolist()], fill=colour)
    return np.asarray(image, dtype=np.float32).copy()


def _finish(canvas: Pixels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Lighting, sometimes slight blur, and sensor noise."""
    canvas = (canvas - 128) * np.float32(rng.uniform(0.85, 1.1)) + 128
    canvas += np.float32(rng.uniform(-14, 14))
    if rng.random() < 0.3:
        image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
        blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
        canvas = np.asarray(blurred, dtype=np.float32)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    return (canvas + np.float32(rng.uniform(0, 7)) * noise).clip(0, 255).astype(np.uint8)
