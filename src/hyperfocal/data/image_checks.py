"""Checks of image files: whether they exist, are complete and have the annotated size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, NamedTuple, TypeVar

from hyperfocal.data.file_names import FileNames
from hyperfocal.data.formats.raw import MAX_SHOWN, Problems, RawAnnotations, RawImage
from hyperfocal.data.images import Header, read_header, read_image
from hyperfocal.files import is_file, shown
from hyperfocal.types import DataError

Check = Literal["none", "headers", "decode"]
BadImages = Literal["error", "skip"]

CHUNK = 16
"""Files that a thread takes at a time."""

T = TypeVar("T")
R = TypeVar("R")


def links_out(images: Sequence[RawImage]) -> list[RawImage]:
    """Images whose file is a link to a file outside the image folder, or in a folder that is such a
    link.

    An archive can hold a link to any file of the machine that unpacks it. The image folder itself
    may be a link.
    """
    real: dict[str, str] = {}

    def resolved(folder: str) -> str:
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        return real[folder]

    found = []
    for image in images:
        try:
            path = os.fspath(image.path)
            parent = os.path.dirname(path)
            root = parent if image.folder is None else os.fspath(image.folder)
            is_link = os.path.islink(path)
            if root == parent and not is_link:
                continue
            place = os.path.realpath(path) if is_link else resolved(parent)
            if os.path.commonpath((place, resolved(root))) != resolved(root):
                found.append(image)
        except (ValueError, OSError):  # no valid path: reported when it is opened
            continue
    return found


def look_at_images(
    images: Sequence[RawImage], check: Check, advance: Callable[[int], None] = lambda images: None
) -> list[Header | DataError]:
    """Header of every image file, or the error, in the order of ``images``.

    Args:
        images: images whose files are opened.
        check: ``"decode"`` decodes them too.
        advance: called with 1 after each image, for a progress bar.
    """

    def look(image: RawImage) -> Header | DataError:
        try:
            header = read_header(image.path)
            if check == "decode":
                read_image(image.path)
        except DataError as error:
            return error
        return header

    # Threads hide the latency of a disk or a network; decoding is bound by the processors.
    workers = os.cpu_count() if check == "decode" else 8
    found: list[Header | DataError] = []
    for header in in_threads(look, images, workers or 1):
        found.append(header)
        advance(1)
    return found


def in_threads(do: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """``map`` in threads, in chunks, because a single item takes too little time."""

    def do_all(start: int) -> list[R]:
        return [do(item) for item in items[start : start + CHUNK]]

    with ThreadPoolExecutor(workers) as pool:
        for results in pool.map(do_all, range(0, len(items), CHUNK)):
            yield from results


class CheckedImages(NamedTuple):
    """Result of `check_images`.

    Attributes:
        images: usable images, with the sizes of their files.
        left_out: ids of the others.
        headers: headers of the opened files, by image id.
    """

    images: list[RawImage]
    left_out: list[int]
    headers: dict[int, Header]


def check_images(
    raw: RawAnnotations,
    check: Check,
    bad_images: BadImages,
    problems: Problems,
    headers: Sequence[Header | DataError] | None = None,
) -> CheckedImages:
    """The images that can be used, with the sizes of their files.

    Args:
        raw: the annotations with their images.
        check: ``"none"`` opens no file whose size is annotated.
        bad_images: ``"error"``, or ``"skip"`` to leave out those that can't be used.
        problems: collects errors and warnings.
        headers: result of `look_at_images`, if it was called before.

    Raises:
        DataError: files that can't be used.
    """
    every = bool(headers) or check != "none"
    opened = [image for image in raw.images if every or image.hw is None]
    found = headers or look_at_images(opened, check)
    header_of = {image.id: header for image, header in zip(opened, found, strict=True)}
    good: list[RawImage] = []
    wrong: list[str] = []
    turned: list[str] = []
    bad: list[tuple[RawImage, DataError]] = []
    for image in raw.images:
        header = header_of.get(image.id)
        if header is None:
            good.append(image)
            continue
        if isinstance(header, DataError):
            bad.append((image, header))
            continue
        if image.hw and image.hw != header.hw:
            stated = (
                f"{shown(image.name)}, {_size(image.hw)} in the annotations, {_size(header.hw)}"
            )
            is_turned = image.hw == header.stored_hw
            (turned if is_turned else wrong).append(f"image id {image.id}, {stated} in the file")
        good.append(replace(image, hw=header.hw))
    problems.warn(
        len(wrong),
        "image images",
        "with a wrong width or height in the annotations; the file's own size is used (boxes are "
        "taken to be in its pixels, unless they were scaled)",
        wrong[0] if wrong else "",
    )
    problems.warn(
        len(turned),
        "image images",
        "annotated with the size from before EXIF rotation; boxes are taken to lie in the image "
        "as displayed, so look at some of them",
        turned[0] if turned else "",
    )
    if bad_images == "skip" and good:
        first = f"image id {bad[0][0].id}: {bad[0][1]}" if bad else ""
        problems.warn(len(bad), "image images", "left out as unusable", first)
    elif bad:
        problems.errors += _errors(bad, raw.images)
        problems.raise_errors()
    return CheckedImages(
        good,
        [image.id for image, _ in bad],
        {key: value for key, value in header_of.items() if isinstance(value, Header)},
    )


def _errors(bad: Sequence[tuple[RawImage, DataError]], images: Sequence[RawImage]) -> list[str]:
    """One message per unusable image, or a single message if none of the files exists."""
    names = FileNames()
    # Only of those that are shown: listing folders takes time.
    near = [
        None if is_file(image.path) else names.with_other_suffix(image.path)
        for image, _ in bad[:MAX_SHOWN]
    ]
    if len(bad) > 1 and not any(is_file(image.path) for image in images):
        first = next((n for n, name in enumerate(near) if name), None)
        if first is not None:
            return [
                f"none of the {len(images)} image files exists under its annotated name: for "
                f"{shown(bad[first][0].name)} there is {shown(near[first])}; correct the file names"
            ]
        return [
            f"none of the {len(images)} image files exists, such as {images[0].path}; name their "
            "folder (--data.train.images, --data.val.images; of hyperfocal evaluate: --data.images)"
        ]
    fix = "; correct the path or the file, or leave such images out with --data.bad-images skip"
    near += [None] * (len(bad) - len(near))
    return [
        f"image id {image.id}: {error}" + (f"; there is {shown(name)}" if name else "") + fix
        for (image, error), name in zip(bad, near, strict=True)
    ]


def _size(hw: tuple[int, int]) -> str:
    return f"{hw[1]}x{hw[0]}"
