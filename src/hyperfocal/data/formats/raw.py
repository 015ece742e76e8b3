"""Parsed but unchecked annotations, which every reader returns, and the problems found in them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hyperfocal.types import (
    Category,
    DataError,
    Federated,
    HyperfocalWarning,
    OpenImagesLists,
)

SplitName = Literal["train", "val"]
BoxOrder = Literal["xywh", "cxcywh", "xyxy"]

MAX_SIDE = 1 << 24
"""Pixels; a larger annotated width or height is ignored."""

MAX_SHOWN = 10
"""Errors written out in one message; the rest are counted."""


@dataclass(frozen=True)
class RawImage:
    """One image of the annotations, unchecked.

    Attributes:
        id: image id.
        name: file name as annotated, relative to the image folder.
        path: where the file should be: the image folder and the name.
        hw: annotated height and width; None if there are none.
        folder: the image folder; None if the path doesn't come from a name in the annotations.
    """

    id: int
    name: str
    path: Path
    hw: tuple[int, int] | None
    folder: Path | None = None


@dataclass(frozen=True)
class RawAnnotations:
    """Parsed but unchecked annotations, stored as columns.

    Attributes:
        source: the file or folder.
        categories: categories in label order.
        images: all images.
        image_ids: ``(N,)`` int64, image id of each annotation.
        category_ids: ``(N,)`` int64.
        boxes: ``(N, 4)`` float64 xyxy in pixels, or in fractions of the image if ``normalized``; a
            row of NaN if the source has no valid box.
        crowd: ``(N,)`` bool.
        area: ``(N,)`` float64 px², NaN if the source has none.
        normalized: boxes are fractions of the image's width and height.
        describe: names the n-th annotation in a message.
        made_up_ids: the format has no category ids; categories are identified by name.
        federated: LVIS's lists, with category ids instead of labels and ``frequency`` in the order
            of ``categories``; None for other formats.
        openimages: Open Images' lists, with labels of ``categories``; None for other formats.
        xywh: ``(N, 4)`` float64 x, y, width, height as written; None for formats without widths.
        order: order of the four numbers in the source, which tools confuse; None if they are named.
    """

    source: Path
    categories: tuple[Category, ...]
    images: Sequence[RawImage]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    describe: Callable[[int], str]
    normalized: bool = False
    made_up_ids: bool = False
    federated: Federated | None = None
    openimages: OpenImagesLists | None = None
    xywh: NDArray[np.float64] | None = None
    order: BoxOrder | None = None

    def take(self, rows: NDArray[np.int64]) -> RawAnnotations:
        """The annotations of some rows, with all images and categories."""
        describe = self.describe
        return replace(
            self,
            image_ids=self.image_ids[rows],
            category_ids=self.category_ids[rows],
            boxes=self.boxes[rows],
            crowd=self.crowd[rows],
            area=self.area[rows],
            xywh=None if self.xywh is None else self.xywh[rows],
            describe=lambda n: describe(int(rows[n])),
        )


@dataclass(frozen=True)
class Warned:
    """One kind of problem for which annotations were corrected or dropped.

    Attributes:
        count: number of cases.
        text: the warning, with the count.
        first: names the first case.
        rows: indices of the annotations concerned, if there are any.
    """

    count: int
    text: str
    first: str
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.text} (first: {self.first})"


@dataclass
class Problems:
    """Collects the problems of a source, to report them all at once.

    Attributes:
        source: named at the start of every message.
        errors: problems that can't be corrected.
        warnings: problems for which something was corrected or dropped, one per kind.
        quiet: don't emit the warnings; the caller reads them from this object.
    """

    source: Path
    errors: list[str] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)
    quiet: bool = False

    def warn(
        self, count: int, things: str, what: str, first: str, rows: Sequence[int] = ()
    ) -> None:
        """Add a warning for ``count`` cases of one kind, unless ``count`` is 0.

        Args:
            count: number of cases.
            things: singular and plural, as in ``"box boxes"``.
            what: the rest of the message.
            first: names the first case.
            rows: indices of the annotations concerned.
        """
        if count:
            text = f"{counted(count, things)} {what}"
            self.warnings.append(Warned(count, text, first, tuple(rows)))

    def raise_errors(self) -> None:
        """Raise the errors so far as one `DataError`.

        Raises:
            DataError: there are errors; the message lists the first ten.
        """
        if self.errors:
            shown = self.errors[:MAX_SHOWN]
            if len(self.errors) == 1:
                raise DataError(f"{self.source}: {shown[0]}")
            lines = [f"{self.source}: {len(self.errors)} problems", *shown]
            if len(self.errors) > MAX_SHOWN:
                lines.append(f"... and {len(self.errors) - MAX_SHOWN} more")
            raise DataError("\n  ".join(lines))

    def report(self) -> None:
        """Raise all errors as one `DataError`, or else emit the warnings. Call it once, at the end.

        Raises:
            DataError: see `raise_errors`.
        """
        self.raise_errors()
        if self.quiet:
            return
        for line in self.warnings:
            warnings.warn(f"{self.source}: {line}", HyperfocalWarning, stacklevel=4)


def counted(count: int, things: str) -> str:
    """``counted(1, "box boxes") == "1 box"``, ``counted(2, "box boxes") == "2 boxes"``."""
    one, many = things.split()
    return f"{count} {one if count == 1 else many}"


def inside(folder: Path, name: str) -> Path | None:
    """``folder / name``, or None if an annotated name is outside the folder.

    An absolute path is inside the folder if it begins with the folder's path.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() and "\0" not in name and ".." not in posix.parts:
        for root in (folder, folder.absolute(), folder.resolve()):
            if posix.is_relative_to(root.as_posix()) and posix != PurePosixPath(root.as_posix()):
                return folder / posix.relative_to(root.as_posix())
    leaves = posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts
    return None if leaves or not name or "\0" in name else folder / name
