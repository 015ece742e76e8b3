"""Duplicate images; those in both splits make the validation AP too high."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hyperfocal.data import load_sample
from hyperfocal.data.formats.raw import counted
from hyperfocal.data.images import read_image
from hyperfocal.data.same_files import identical_files
from hyperfocal.inspection.findings import Case, Finding
from hyperfocal.types import DataError, ImageRecord

THUMBNAIL = 32
"""Side of the grey thumbnails by which images are compared, in pixels."""

HASH_BITS = 6
"""Maximum number of different bits, of 64, in the difference hashes of candidates."""

ALIKE = 0.97
"""Correlation of two thumbnails from which the images are considered copies."""


@dataclass(frozen=True)
class Picture:
    """An image of a split: a file, or a record whose source reads it."""

    split: str
    path: Path
    image_id: int
    record: ImageRecord | None = None


@dataclass(frozen=True)
class Decoded:
    """Result of decoding an image.

    Attributes:
        picture: the image.
        thumbnail: ``(32, 32)`` uint8 grey, or None if decoding failed.
        problem: the error message, or None.
    """

    picture: Picture
    thumbnail: NDArray[np.uint8] | None
    problem: str | None = None


# --------------------------------------------------------------------------- identical files


def identical_pictures(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Groups of images whose files differ but have the same bytes."""
    by_path = {picture.path: picture for picture in pictures}
    return [[by_path[path] for path in group] for group in identical_files(list(by_path))]


def check_identical(pictures: Sequence[Picture]) -> list[Finding]:
    """Image files in both splits, and duplicate files within one."""
    shared = _shared_paths(pictures)
    groups = identical_pictures(pictures)
    across = [g for g in groups if len({p.split for p in g}) > 1]
    within = [g for g in groups if len({p.split for p in g}) == 1]
    findings = []
    if shared or across:
        cases = [Case(str(p.path), p.image_id, note="listed in train and val") for p in shared]
        cases += [_pair_case(group) for group in across]
        count = len(shared) + len(across)
        text = (
            f"{counted(count, 'image images')} in both train and val, byte for byte: the "
            "validation AP will be too high. Remove them from one of the splits"
        )
        findings.append(Finding("error", "identical_in_both", "", text, count, tuple(cases)))
    if within:
        copies = sum(len(group) - 1 for group in within)
        text = f"{counted(copies, 'file files')} identical to another file of the same split"
        cases = [_pair_case(group) for group in within]
        findings.append(Finding("warning", "identical_in_one", "", text, copies, tuple(cases)))
    return findings


def _shared_paths(pictures: Sequence[Picture]) -> list[Picture]:
    train = {picture.path for picture in pictures if picture.split == "train"}
    return [p for p in pictures if p.split == "val" and p.path in train]


def _pair_case(group: Sequence[Picture]) -> Case:
    ordered = sorted(group, key=lambda p: p.split, reverse=True)
    first, *others = ordered
    note = "same as " + ", ".join(f"{p.split} {p.path} (image id {p.image_id})" for p in others[:3])
    return Case(str(first.path), first.image_id, note=note, other=str(others[0].path))


# --------------------------------------------------------------------------- similar images


def decode_all(
    pictures: Sequence[Picture], advance: Callable[[int], None] = lambda images: None
) -> list[Decoded]:
    """Decode all files completely, in threads, and return a thumbnail of each."""
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for decoded in pool.map(_decode, pictures):
            found.append(decoded)
            advance(1)
    return found


def _decode(picture: Picture) -> Decoded:
    try:
        if picture.record is None:
            pixels = read_image(picture.path)
        else:
            pixels = load_sample(picture.record, picture.image_id).image
    except DataError as error:
        return Decoded(picture, None, str(error))
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    # First reduced by an integer factor, which is fast and uses all pixels.
    factor = max(1, min(image.size) // (2 * THUMBNAIL))
    small = image.reduce(factor) if factor > 1 else image
    grey = small.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    return Decoded(picture, np.asarray(grey))


def check_decoded(decoded: Sequence[Decoded], sampled: int | None) -> list[Finding]:
    """Files that can't be decoded, and similar images in train and val.

    Args:
        decoded: from both splits.
        sampled: number of all images, if only some were decoded.
    """
    part = "" if sampled is None else f" (of {len(decoded)} of {sampled} images that were decoded)"
    findings = []
    bad = [d for d in decoded if d.problem is not None]
    if bad:
        text = (
            f"{counted(len(bad), 'file files')} can't be decoded{part}; replace them, or skip them "
            "with --data.check decode --data.bad-images skip"
        )
        cases = tuple(Case(str(d.picture.path), d.picture.image_id, note=d.problem) for d in bad)
        findings.append(Finding("error", "damaged", "", text, len(bad), cases))
    good = [d for d in decoded if d.thumbnail is not None]
    train = [d for d in good if d.picture.split == "train"]
    val = [d for d in good if d.picture.split == "val"]
    # Identical files are another finding.
    content = {d.picture.path: n for n, d in enumerate(good)}
    for group in identical_pictures([d.picture for d in good]):
        content |= {p.path: content[group[0].path] for p in group}
    pairs = [(a.picture, b.picture, r) for a, b, r in near_copies(train, val, content)]
    if pairs:
        pairs.sort(key=lambda pair: -pair[2])
        count = len({b.path for _, b, _ in pairs})
        text = (
            f"{counted(count, 'val-image val-images')} similar to a training image{part}, such as "
            "a resized or recompressed copy or the next frame: the validation AP may be too high. "
            "Check the pairs, and remove one image of each that is a copy"
        )
        cases = tuple(
            Case(
                str(b.path),
                b.image_id,
                note=f"similar to train {a.path} (correlation {r:.3f})",
                other=str(a.path),
            )
            for a, b, r in pairs
        )
        findings.append(Finding("warning", "alike_in_both", "", text, count, cases))
    return findings


def near_copies(
    first: Sequence[Decoded], second: Sequence[Decoded], content: Mapping[Path, int]
) -> list[tuple[Decoded, Decoded, float]]:
    """The most similar image of ``first`` for each image of ``second``, if it is similar enough.

    Candidates are pairs whose 64-bit difference hashes (the signs of the brightness steps along
    the rows of a 9 x 8 thumbnail) differ in few bits; a pair is kept if the thumbnails themselves
    correlate. The hash alone would match plain backgrounds with each other. Each image has one
    partner, since all frames of a static camera are similar.

    Args:
        first: thumbnails of one split.
        second: thumbnails of the other.
        content: a number for each file; files with the same number are never paired.

    Returns:
        The pairs, with the correlation of their thumbnails.
    """
    if not first or not second:
        return []
    one, two = (np.stack([d.thumbnail for d in side]) for side in (first, second))  # type: ignore[misc]
    codes, others = difference_hash(one), difference_hash(two)
    flat, unit = _standard(one), _standard(two)
    bytes_of = np.array([content[d.picture.path] for d in first])
    pairs = []
    for n, code in enumerate(others):
        is_near = np.bitwise_count(codes ^ code) <= HASH_BITS
        near = np.flatnonzero(is_near & (bytes_of != content[second[n].picture.path]))
        if len(near):
            alike = flat[near] @ unit[n]
            best = int(alike.argmax())
            if alike[best] >= ALIKE:
                pairs.append((first[near[best]], second[n], float(alike[best])))
    return pairs


def difference_hash(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """``(N,)`` 64-bit hashes of ``(N, 32, 32)`` grey thumbnails."""
    rows = thumbnails.reshape(-1, 8, 4, THUMBNAIL).mean(axis=2)
    edges = np.linspace(0, THUMBNAIL, 10).round().astype(int)
    spans = itertools.pairwise(edges.tolist())
    cells = np.stack([rows[:, :, a:b].mean(axis=2) for a, b in spans], axis=2)
    bits = (cells[:, :, 1:] > cells[:, :, :-1]).reshape(len(thumbnails), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _standard(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(N, 1024)`` of mean 0 and length 1; images without contrast become zeros."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    # A standard deviation below 1.5 grey levels is only noise.
    return np.asarray(np.where(length > 1.5 * THUMBNAIL, flat / np.maximum(length, 1e-6), 0))
