"""Annotations of any known format, read and checked, as an `AnnotationSet`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperfocal.data.checks import check_annotations
from hyperfocal.data.file_names import with_files
from hyperfocal.data.formats.base import AnnotationFormat
from hyperfocal.data.formats.coco import read_coco
from hyperfocal.data.formats.csv_boxes import csv_format, read_csv
from hyperfocal.data.formats.openimages_split import OpenImagesFiles, read_openimages_split
from hyperfocal.data.formats.raw import Problems, RawAnnotations, SplitName
from hyperfocal.data.formats.voc import find_voc, read_voc
from hyperfocal.data.formats.yolo import read_yolo
from hyperfocal.data.formats.yolo_layout import (
    YAML_SUFFIXES,
    find_yaml,
    has_labels,
    has_labels_folder,
)
from hyperfocal.data.image_checks import BadImages, Check
from hyperfocal.data.joined import join
from hyperfocal.files import as_utf8
from hyperfocal.types import AnnotationSet, Category, DataError


def read_annotations(
    annotations: str | Path | Sequence[str | Path],
    images: str | Path | Sequence[str | Path | None] | None = None,
    *,
    split: SplitName = "train",
    categories: Sequence[Category] | None = None,
    check: Check = "headers",
    bad_images: BadImages = "error",
    openimages: OpenImagesFiles = OpenImagesFiles(),  # noqa: B008, frozen
    follow_links: bool = False,
    format: AnnotationFormat | None = None,
) -> AnnotationSet:
    """Read and check annotations; the format is detected.

    A ``.json`` file is COCO; a ``.yaml`` file, a folder with one, a folder of ``.txt`` labels or
    one with ``images`` and ``labels`` is YOLO; a folder of ``.xml`` files, or a VOC tree, is Pascal
    VOC; a folder with a single COCO file is COCO; a ``.csv`` file has the boxes of Open
    Images, or keras-retinanet's or TensorFlow's columns. See `read_coco`, `read_yolo`, `read_voc`,
    `read_openimages_split` and `read_csv` for each.

    Boxes are relative to the image as displayed, after EXIF rotation. The following are corrected,
    with one `HyperfocalWarning` per kind that gives their number: boxes that are not finite, have
    no area or lie outside the image are dropped; boxes that extend more than a pixel beyond the
    image are clipped; annotations of unknown images, or of categories that aren't in
    ``categories``, are dropped; wrong image sizes are replaced by the file's size; repeated
    annotation ids are kept.

    Args:
        annotations: file or folder, or several of one format, which are joined by the names of
            their categories.
        images: folder that image names are relative to; None: the format's default. For several
            annotation files, one folder for all of them or one for each.
        split: which split to read if the format stores both together (YOLO's ``data.yaml``, a VOC
            tree).
        categories: categories of the training split, so that other splits get the same labels;
            matched by name. None: those of the source.
        check: ``"headers"`` reads the size of every image file and checks that it is complete;
            ``"decode"`` decodes every image; ``"none"`` opens no image whose size is annotated and
            uses boxes as they are, except those that are not finite.
        bad_images: ``"error"``: missing, damaged or unreadable images are an error; ``"skip"``:
            they are left out, with a warning that gives their number.
        openimages: the files that go with Open Images' boxes.
        follow_links: use image files that are links out of the image folder; otherwise an error.
        format: reads the file; None detects the format.

    Raises:
        DataError: an unknown or unreadable format; image files that can't be used (all are
            collected, ten are shown); repeated image or category ids; unknown category ids; a
            category id with another name than in ``categories``; file names outside the image
            folder; no images, no categories or no usable boxes. The message names the file, the id
            and the fix.

    Examples:
        >>> train = read_annotations("train.json", "images")  # doctest: +SKIP
        >>> val = read_annotations(
        ...     "val.json", "images", categories=train.categories
        ... )  # doctest: +SKIP
    """
    files = _files(annotations, images, split)
    parts = [
        read_raw(file, folder, split, categories, openimages=openimages, format=format)
        for file, folder in files
    ]
    problems = Problems(parts[0].source)
    raw = join([with_files(part, problems) for part in parts], problems)
    return check_annotations(
        raw, categories, check, bad_images, problems, follow_links=follow_links
    )


def _files(
    annotations: str | Path | Sequence[str | Path],
    images: str | Path | Sequence[str | Path | None] | None,
    split: SplitName,
) -> list[tuple[Path, Path | None]]:
    """Each annotation file with its image folder."""
    given = [annotations] if isinstance(annotations, str | Path) else list(annotations)
    if images is None or isinstance(images, str | Path):
        folders: list[str | Path | None] = [images] * len(given)
    else:
        folders = list(images)
    if not given or len(folders) != len(given):
        raise DataError(
            f"{split}: {len(given)} annotation files, but {len(folders)} image folders; give one "
            "folder for all, or one for each"
        )
    return [
        (Path(file), None if folder is None else Path(folder))
        for file, folder in zip(given, folders, strict=True)
    ]


def read_raw(
    annotations: Path,
    images: Path | None,
    split: SplitName,
    categories: Sequence[Category] | None = None,
    problems: Problems | None = None,
    openimages: OpenImagesFiles = OpenImagesFiles(),  # noqa: B008, frozen
    format: AnnotationFormat | None = None,
) -> RawAnnotations:
    """The first half of `read_annotations`: parsed, but unchecked.

    Args:
        annotations: file or folder.
        images: image folder, or None.
        split: see `read_annotations`.
        categories: names for a folder of YOLO labels that has none.
        problems: collects errors and warnings; None raises and warns.
        openimages: the files that go with Open Images' boxes.
        format: reads the file; None detects the format.

    Raises:
        DataError: see `read_annotations`.
    """
    if images is not None and not images.is_dir():
        what = "is not a folder" if images.exists() else "does not exist"
        raise DataError(f"{images}: the image folder {what}; check --data.{split}.images")
    if format is not None:
        if not annotations.exists():
            raise DataError(
                f"{annotations}: no such file or folder; check --data.{split}.annotations"
            )
        return format.read(annotations, images, split)
    if annotations.suffix.lower() == ".csv":
        if (other := csv_format(annotations)) is not None:
            return read_csv(annotations, images, other, openimages.classes, split, problems)
        return read_openimages_split(annotations, images, openimages, split)
    if given := openimages.options(split):
        raise DataError(f"{given[0]} goes with Open Images' boxes (.csv), not with {annotations}")
    if annotations.is_dir():
        found = _look_into(annotations)
        if len(found) != 1:
            several = f"several formats in it ({', '.join(found)})"
            what = several if found else "no annotations in it"
            raise DataError(
                f"{annotations}: {what}; name a COCO .json file, a YOLO data.yaml or folder of "
                "labels, or a folder of VOC .xml files"
            )
        if "VOC" in found:
            return read_voc(annotations, images, split, problems)
        if "COCO" in found:
            return read_coco(coco_files(annotations)[0], images, problems)
        return read_yolo(annotations, images, split, categories, problems)
    if not annotations.exists():
        raise DataError(f"{annotations}: no such file or folder; check --data.{split}.annotations")
    if annotations.suffix.lower() in YAML_SUFFIXES:
        return read_yolo(annotations, images, split, categories, problems)
    if annotations.suffix.lower() in (".xml", ".txt"):
        raise DataError(f"{annotations}: one image's annotations; give their folder")
    if annotations.suffix.lower() in (".data", ".names"):
        raise DataError(
            f"{annotations}: darknet's files aren't read; write a data.yaml (names, train, val)"
        )
    return read_coco(annotations, images, problems)


def _look_into(folder: Path) -> list[str]:
    found = []
    if find_voc(folder) is not None:
        found.append("VOC")
    if find_yaml(folder) is not None or has_labels(folder) or has_labels_folder(folder):
        found.append("YOLO")
    if len(coco_files(folder)) == 1:
        found.append("COCO")
    return found


def coco_files(folder: Path) -> list[Path]:
    """The ``.json`` files of a folder with the words ``"images"`` and ``"annotations"`` in them.

    Other tools leave JSON files beside their labels, such as Label Studio's ``notes.json``.
    """
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
    return [file for file in files if _has_words(file, (b'"images"', b'"annotations"'))]


def _has_words(file: Path, words: Sequence[bytes]) -> bool:
    try:
        with as_utf8(file) as text:
            return all(text.find(word) >= 0 for word in words)
    except (OSError, ValueError):  # unreadable, or empty
        return False
