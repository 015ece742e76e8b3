"""YOLO label files: a line with a box, polygon or pose per object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperfocal.data.formats.raw import Problems
from hyperfocal.files import read_text
from hyperfocal.types import DataError

MAX_DIGITS = 9
"""Of a class number."""

MIN_POSE = 11
"""Words of a line from which it may be a pose; an oriented box has nine."""

MAX_FRACTION = 2.0
"""Beyond this a coordinate is a pixel, not a fraction that sticks out a little."""


def read_labels(
    file: Path, keypoints: tuple[int, int] | None, poses: PoseSigns, problems: Problems
) -> list[tuple[int, tuple[float, ...]]]:
    """Line number and (class, x1, y1, x2, y2) of every box; empty if there is no file."""
    try:
        lines = read_text(file).splitlines()
    except FileNotFoundError:
        return []
    except DataError as error:
        problems.errors.append(str(error))
        return []
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, _parse_line(line, keypoints)))
            if keypoints is None:
                poses.see(line, f"{file} line {number}")
        except ValueError as error:
            problems.errors.append(f"{file} line {number}: {error}, found {line.strip()[:60]!r}")
    return rows


def _parse_line(line: str, keypoints: tuple[int, int] | None) -> tuple[float, ...]:
    """Class, x1, y1, x2, y2."""
    words = line.split()
    number = _class_of(words[0])
    values = [float(word) for word in words[1:]]
    count = len(values)
    if keypoints is not None:
        pose = 4 + keypoints[0] * keypoints[1]
        if count not in (4, 5, pose, pose + 1, pose + 2):
            raise ValueError(
                f"expected a class number and {pose} values (a box and {keypoints[0]} keypoints of "
                f"{keypoints[1]}, as kpt_shape says), but there are {count}"
            )
        coordinates = values[:4]
    elif count in (4, 5):  # the fifth is a confidence or a track id
        coordinates = values[:4]
    elif count >= 6:
        coordinates = values[: count - count % 2]
    else:
        raise ValueError("expected a class number and 4 values, or a polygon of at least 3 points")
    if any(abs(value) > MAX_FRACTION for value in coordinates):
        raise ValueError("coordinates must be fractions of the image's width and height")
    if len(coordinates) == 4:
        cx, cy, w, h = coordinates
        return number, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    xs, ys = coordinates[::2], coordinates[1::2]
    return number, min(xs), min(ys), max(xs), max(ys)


def _class_of(word: str) -> float:
    """The class number, which some tools write as 1.0."""
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not (number.is_integer() and 0 <= number < 10**MAX_DIGITS):
        raise ValueError("the first word must be a class number")
    return number


class PoseSigns:
    """Detects lines with poses in a dataset that isn't declared as a pose dataset.

    Lines are considered poses if all of them have the same length, more than an oriented box has,
    and in each of them the first four values are a box that contains the following points.
    """

    def __init__(self) -> None:
        self.lengths: set[int] = set()
        self.first = ""
        self.possible = True

    def see(self, line: str, where: str) -> None:
        """Add a line of a label file."""
        words = line.split()
        if not self.possible or len(words) <= 6:
            return
        self.possible = len(words) >= MIN_POSE and _is_pose(words)
        self.lengths.add(len(words))
        self.first = self.first or where

    def check(self, problems: Problems) -> None:
        """Add an error if all lines seem to be poses."""
        if self.possible and len(self.lengths) == 1:
            problems.errors.append(
                f"the lines seem to be poses (a box, and keypoints inside it), first {self.first}; "
                "add kpt_shape: [points, 2 or 3] to a data.yaml, so that they aren't read as "
                "polygons"
            )


def _is_pose(words: Sequence[str]) -> bool:
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        return False
    cx, cy, w, h = values[:4]
    for per_point in (2, 3):
        if len(values[4:]) % per_point:
            continue
        xs, ys = values[4::per_point], values[5::per_point]
        inside_x = all(abs(x - cx) <= w / 2 + 1e-6 or x == 0 for x in xs)
        inside_y = all(abs(y - cy) <= h / 2 + 1e-6 or y == 0 for y in ys)
        if w > 0 and h > 0 and inside_x and inside_y:
            return True
    return False
