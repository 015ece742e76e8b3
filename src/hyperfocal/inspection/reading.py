"""Reads a split as training does, but collects all errors instead of stopping."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data import Split, SplitName
from hyperfocal.data.annotations import read_raw
from hyperfocal.data.box_units import image_sizes, in_file_pixels
from hyperfocal.data.checks import check_annotations
from hyperfocal.data.file_names import with_files
from hyperfocal.data.formats.base import AnnotationFormat
from hyperfocal.data.formats.raw import Problems, RawAnnotations, counted
from hyperfocal.data.image_checks import links_out, look_at_images
from hyperfocal.data.images import Header
from hyperfocal.data.joined import join
from hyperfocal.files import shown
from hyperfocal.inspection.findings import Case, Finding, Severity
from hyperfocal.types import AnnotationSet, Category, DataError

MAX_LINES = 50
"""Maximum number of errors of one kind that are listed."""

_HARMLESS = ("marked difficult",)


@dataclass(frozen=True)
class Examined:
    """A split, as written and as used in training.

    Attributes:
        name: which split.
        raw: as parsed, with boxes in pixels of the files, without rows that can't be used at all.
        headers: header of each image file, in the order of ``raw.images``; empty if none was
            opened.
        annotations: checked and corrected; None if nothing usable is left.
    """

    name: SplitName
    raw: RawAnnotations
    headers: Sequence[Header | DataError]
    annotations: AnnotationSet | None

    @property
    def sizes(self) -> NDArray[np.float64]:
        """``(N, 2)`` height and width of each annotation's image, NaN where unknown."""
        return image_sizes(self.raw, _by_id(self.raw, self.headers))

    @property
    def boxes(self) -> NDArray[np.float64]:
        """``(N, 4)`` xyxy in pixels of the files."""
        if not self.raw.normalized:
            return self.raw.boxes
        return np.asarray(self.raw.boxes * self.sizes[:, [1, 0, 1, 0]])

    def cases(self, rows: Sequence[int], notes: Sequence[str | None] = ()) -> tuple[Case, ...]:
        """Annotations as cases."""
        wanted = {int(self.raw.image_ids[row]) for row in rows}
        paths = {i.id: str(i.path) for i in self.raw.images if i.id in wanted}
        boxes = self.boxes
        found = []
        for n, row in enumerate(rows):
            image = int(self.raw.image_ids[row])
            x1, y1, x2, y2 = (float(v) for v in boxes[row])
            box = (x1, y1, x2, y2) if np.isfinite(boxes[row]).all() else None
            note = notes[n] if notes else None
            found.append(Case(paths.get(image), image, self.raw.describe(row), box, note))
        return tuple(found)


def read_split(
    name: SplitName,
    split: Split,
    categories: Sequence[Category] | None = None,
    format: AnnotationFormat | None = None,
) -> tuple[RawAnnotations | None, list[Finding]]:
    """Parse a split; None if that is impossible.

    Args:
        name: which split.
        split: its paths; ``annotations`` is given.
        categories: the training split's, for val.
        format: reads it; None: detected.
    """
    assert split.annotations is not None
    parts: list[RawAnnotations] = []
    findings: list[Finding] = []
    for file, folder in split.files:
        problems = Problems(file, quiet=True)
        try:
            raw = read_raw(file, folder, name, categories, problems, split.openimages, format)
            parts.append(with_files(raw, problems))
        except DataError as error:
            findings += _unreadable(name, file, problems, error)
        findings += _from_problems(name, problems, None)
    if len(parts) < len(split.files):
        return None, findings
    problems = Problems(split.annotations, quiet=True)
    try:
        raw = join(parts, problems)
    except DataError as error:
        return None, findings + _unreadable(name, split.annotations, problems, error)
    return raw, findings + _from_problems(name, problems, None)


def _unreadable(name: SplitName, file: Path, problems: Problems, error: DataError) -> list[Finding]:
    errors = problems.errors or [_without_source(str(error), file)]
    found = [_error(name, "unreadable", file, text) for text in errors[:MAX_LINES]]
    if len(errors) > MAX_LINES:
        found.append(_error(name, "unreadable", None, f"{len(errors) - MAX_LINES} more errors"))
    return found


def check_split(
    name: SplitName,
    raw: RawAnnotations,
    categories: Sequence[Category] | None = None,
    *,
    open_images: bool = True,
    follow_links: bool = False,
    skip_bad: bool = False,
    advance: Callable[[int], None] = lambda images: None,
) -> tuple[Examined, list[Finding]]:
    """Collect what `hyperfocal.data.read_annotations` would warn of or raise.

    Args:
        name: which split.
        raw: from `read_split`.
        categories: the training split's, for val.
        open_images: check the header and end of every image file.
        follow_links: see `hyperfocal.data.read_annotations`.
        skip_bad: training will skip unusable images, so they are no error.
        advance: called with 1 after each image file.
    """
    raw, findings = without_errors(name, raw, follow_links)
    headers: Sequence[Header | DataError] = ()
    if open_images:
        headers = look_at_images(raw.images, "headers", advance)
        findings += _unusable_images(name, raw, headers, "warning" if skip_bad else "error")
    in_pixels, wrong = in_file_pixels(raw, _by_id(raw, headers), Problems(raw.source, quiet=True))
    examined = Examined(name, in_pixels, headers, None)
    if wrong is not None:
        cases = examined.cases(wrong.rows[:20].tolist())
        findings.append(Finding("error", wrong.kind, name, wrong.text, len(wrong.rows), cases))
    problems = Problems(raw.source, quiet=True)
    check: Literal["headers", "none"] = "headers" if open_images else "none"
    try:
        annotations = check_annotations(
            raw,
            categories,
            check,
            "skip",
            problems,
            headers if open_images else None,
            follow_links,
        )
    except DataError as error:
        errors = problems.errors or [_without_source(str(error), raw.source)]
        # If all files are missing, that has been reported already.
        if not (open_images and all(isinstance(header, DataError) for header in headers)):
            new = [text for text in errors if wrong is None or text != wrong.text]
            findings += [_error(name, "unusable", None, text) for text in new]
        return examined, findings + _from_problems(name, problems, examined)
    examined = dataclasses.replace(examined, annotations=annotations)
    return examined, findings + _from_problems(name, problems, examined)


def _by_id(raw: RawAnnotations, headers: Sequence[Header | DataError]) -> dict[int, Header]:
    """Headers of the image files that could be read."""
    pairs = zip(raw.images, headers, strict=True) if headers else ()
    return {image.id: header for image, header in pairs if isinstance(header, Header)}


def without_errors(
    name: SplitName, raw: RawAnnotations, follow_links: bool = False
) -> tuple[RawAnnotations, list[Finding]]:
    """Remove what would stop training, with a finding for each, so that the rest can be checked."""
    findings: list[Finding] = []
    linked = [] if follow_links else links_out(raw.images)
    if linked:
        text = (
            f"{counted(len(linked), 'image images')} left out as links out of the image folder; "
            "copy the files there, or allow such links with --data.follow-links"
        )
        cases = tuple(Case(None, image.id, note=str(image.path)) for image in linked)
        findings.append(Finding("error", "links", name, text, len(linked), cases))
        gone = {image.id for image in linked}
        kept = [image for image in raw.images if image.id not in gone]
        left = np.flatnonzero(~np.isin(raw.image_ids, list(gone)))
        raw = dataclasses.replace(raw, images=kept).take(left)
    images = {image.id: image for image in reversed(raw.images)}
    if len(images) < len(raw.images):
        twice = [image for image in raw.images if images[image.id] is not image]
        text = (
            f"{len(twice)} image ids are used more than once; ids must be unique, or boxes are "
            "assigned to the wrong image"
        )
        cases = tuple(Case(str(image.path), image.id) for image in twice)
        findings.append(Finding("error", "repeated_image_ids", name, text, len(twice), cases))
        kept = [image for image in raw.images if images[image.id] is image]
        raw = dataclasses.replace(raw, images=kept)
    by_id = {category.id: category for category in reversed(raw.categories)}
    if len(by_id) < len(raw.categories):
        extra = [c for c in raw.categories if by_id[c.id] is not c]
        text = f"{len(extra)} category ids are used more than once; ids must be unique"
        cases = tuple(Case(note=f"id {c.id}, {shown(c.name)}") for c in extra)
        findings.append(Finding("error", "repeated_category_ids", name, text, len(extra), cases))
        kept_categories = tuple(c for c in raw.categories if by_id[c.id] is c)
        raw = dataclasses.replace(raw, categories=kept_categories, federated=None)
    listed = np.array(sorted(by_id), dtype=np.int64)
    known = np.isin(raw.category_ids, listed)
    if raw.categories and not known.all():
        rows = np.flatnonzero(~known)
        unknown = sorted({int(i) for i in raw.category_ids[rows]})
        some = ", ".join(str(i) for i in unknown[:10]) + (" ..." if len(unknown) > 10 else "")
        text = (
            f"{len(rows)} boxes have category ids that aren't in the list of categories ({some}); "
            "add them there or remove these boxes"
        )
        cases = Examined(name, raw, (), None).cases(rows[:20].tolist())
        findings.append(Finding("error", "unknown_category", name, text, len(rows), cases))
        raw = raw.take(np.flatnonzero(known))
    return raw, findings


def _unusable_images(
    name: SplitName,
    raw: RawAnnotations,
    headers: Sequence[Header | DataError],
    severity: Severity,
) -> list[Finding]:
    pairs = zip(raw.images, headers, strict=True)
    bad = [(image, error) for image, error in pairs if isinstance(error, DataError)]
    if not bad:
        return []
    text = (
        f"{len(bad)} of {len(raw.images)} image files can't be used; fix the paths or files, or "
        "skip them with --data.bad-images skip"
    )
    cases = tuple(
        Case(str(image.path), image.id, note=_without_source(str(error), image.path))
        for image, error in bad
    )
    return [Finding(severity, "file", name, text, len(bad), cases)]


def _from_problems(name: SplitName, problems: Problems, examined: Examined | None) -> list[Finding]:
    findings = []
    for warned in problems.warnings:
        if "left out as unusable" in warned.text:  # reported already
            continue
        harmless = any(word in warned.text for word in _HARMLESS)
        severity: Severity = "note" if harmless else "warning"
        cases: tuple[Case, ...] = (Case(note=warned.first),)
        if warned.rows and examined is not None:
            cases = examined.cases(warned.rows[:20])
        findings.append(Finding(severity, "checks", name, warned.text, warned.count, cases))
    return findings


def _error(name: SplitName, kind: str, place: Path | None, text: str) -> Finding:
    cases = () if place is None else (Case(note=str(place)),)
    return Finding("error", kind, name, text, 1, cases)


def _without_source(text: str, source: Path) -> str:
    return text.removeprefix(f"{source}: ")
