"""YOLO datasets: one text file per image, with a line ``class cx cy w h`` per box, in fractions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyperfocal.data.file_names import CASE, FileNames, warn_of_hidden
from hyperfocal.data.formats.raw import Problems, RawAnnotations, RawImage, SplitName
from hyperfocal.data.formats.yolo_labels import PoseSigns, read_labels
from hyperfocal.data.formats.yolo_layout import (
    find_yaml,
    has_labels_folder,
    is_label,
    keypoints_in,
    label_file_of,
    list_images,
    names_beside,
    names_in,
    read_settings,
    split_folders,
    split_images,
)
from hyperfocal.files import is_file
from hyperfocal.types import Category, DataError


def read_yolo(
    annotations: Path,
    images: Path | None = None,
    split: SplitName = "train",
    categories: Sequence[Category] | None = None,
    problems: Problems | None = None,
) -> RawAnnotations:
    """Parse a YOLO dataset.

    The label file of an image is looked up in the folder of label files if ``annotations`` is one;
    else in the image's folder with ``images`` replaced by ``labels``; else next to the image. An
    image without a label file has no boxes. Category ids are the class numbers, from 0; images are
    numbered from 1.

    A line is one of the following, optionally with a confidence or a track id at its end:

    * a box: ``class cx cy w h``;
    * a polygon or an oriented box: ``class x1 y1 x2 y2 x3 y3 ...``, at least three points; its
      bounding box is used;
    * a pose, if ``data.yaml`` has ``kpt_shape: [points, 2 or 3]``: ``class cx cy w h`` and the
      keypoints, which are ignored.

    Args:
        annotations: ``data.yaml``, a folder with one, a folder of label files, or a folder with
            ``images`` and ``labels`` (and in these ``train`` and ``val``, if the splits are
            separate).
        images: image folder of the split; None: that in ``data.yaml``.
        split: ``train`` or ``val``.
        categories: names for a folder of label files without ``classes.txt``.
        problems: collects errors and warnings; None raises and warns.

    Raises:
        DataError: unreadable files or lines; the message names them.
    """
    labels, keypoints = None, None
    file = find_yaml(annotations) if annotations.is_dir() else annotations
    problems = problems or Problems(file or annotations)
    hidden: list[Path] = []
    if file is not None:
        settings = read_settings(file)
        known = names_in(settings, file)
        keypoints = keypoints_in(settings, file)
        if images:
            files = list_images(images, hidden)
        else:
            files = split_images(settings, file, split, hidden, problems)
    else:
        labels = annotations
        if images is None and has_labels_folder(annotations):
            labels, images = split_folders(annotations, split)
        known = names_beside(labels, categories)
        if images is None:
            raise DataError(
                f"{labels}: a folder of label files; name the image folder with "
                f"--data.{split}.images"
            )
        files = list_images(images, hidden)
    warn_of_hidden(hidden, problems)
    rows: list[tuple[float, ...]] = []
    owners: list[int] = []
    where: list[str] = []
    read: set[Path] = set()
    poses = PoseSigns()
    names = FileNames()
    renamed: list[str] = []
    for number, image in enumerate(files, start=1):
        label_file = label_file_of(image, images, labels)
        if not is_file(label_file):
            other = names.find(label_file.parent, label_file.name)
            if other is not None:
                renamed.append(f"{other.name} of {image.name}")
                label_file = other
        read.add(label_file)
        for line, row in read_labels(label_file, keypoints, poses, problems):
            rows.append(row)
            owners.append(number)
            where.append(f"{label_file.name} line {line}")
    orphans = sorted(
        path
        for folder in {path.parent for path in read}
        for path in folder.glob("*.txt")
        if path not in read and is_label(path)
    )
    poses.check(problems)
    problems.warn(
        len(renamed), "label-file label-files", f"found although {CASE}", (renamed or [""])[0]
    )
    if files and not any(is_file(path) for path in read):
        problems.errors.append(
            "no label file belongs to any of the images; the first looked for is "
            f"{label_file_of(files[0], images, labels)}"
        )
    problems.warn(
        len(orphans),
        "label-file label-files",
        "without an image left out",
        str(orphans[0]) if orphans else "",
    )
    problems.report()
    table = np.array(rows, dtype=np.float64).reshape(-1, 5)
    return RawAnnotations(
        source=file or annotations,
        categories=known,
        images=[RawImage(n, path.name, path, None) for n, path in enumerate(files, start=1)],
        image_ids=np.array(owners, dtype=np.int64),
        category_ids=table[:, 0].astype(np.int64),
        boxes=table[:, 1:].copy(),
        crowd=np.zeros(len(table), dtype=np.bool_),
        area=np.full(len(table), np.nan),
        describe=where.__getitem__,
        normalized=True,
        order="cxcywh",
    )
