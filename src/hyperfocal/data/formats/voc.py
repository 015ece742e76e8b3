"""Pascal VOC: one XML file per image; boxes in pixels, counted from 1, both ends inclusive."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml
import defusedxml.ElementTree
import numpy as np

from hyperfocal.data.file_names import warn_of_hidden
from hyperfocal.data.formats.raw import (
    MAX_SIDE,
    Problems,
    RawAnnotations,
    RawImage,
    SplitName,
    inside,
)
from hyperfocal.data.images import SUFFIXES
from hyperfocal.files import MAX_TEXT, is_file, is_utf16, one_line, read_text, shown
from hyperfocal.names import one_name
from hyperfocal.types import Category, DataError


def find_voc(folder: Path) -> Path | None:
    """The folder with the XML files: ``folder`` itself or ``Annotations`` in it."""
    for place in (folder, folder / "Annotations"):
        if _xml_files(place)[0]:
            return place
    return None


def _xml_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The XML files of a folder, and those that are hidden."""
    files = sorted(folder.glob("*.xml"))
    hidden = [file for file in files if file.name.startswith(".")]
    return [file for file in files if not file.name.startswith(".")], hidden


def read_voc(
    folder: Path,
    images: Path | None = None,
    split: SplitName = "train",
    problems: Problems | None = None,
) -> RawAnnotations:
    """Parse a folder of Pascal VOC XML files.

    Boxes ``xmin ymin xmax ymax`` are converted to ``(xmin - 1, ymin - 1, xmax, ymax)``; a 0 stays
    0, because it was written by a tool that counts from 0. Objects marked ``difficult`` get the
    crowd flag: as in VOC's protocol, they are used neither for training nor for evaluation. VOC has
    no list of categories: they are the names that occur, in alphabetical order, with ids from 1.
    Images are numbered from 1 in the order of the XML files' names.

    Args:
        folder: folder with the XML files, or the root of a VOC tree (``Annotations``,
            ``JPEGImages``, and optionally ``ImageSets/Main/train.txt``, which lists the images of a
            split).
        images: the image folder; None: ``JPEGImages`` next to ``Annotations``, or the folder of the
            XML files.
        split: the split, for a tree with lists.
        problems: collects errors and warnings; None raises and warns.

    Raises:
        DataError: unreadable or incomplete files; the message names them.
    """
    place = find_voc(folder)
    if place is None:
        raise DataError(f"{folder}: no XML files in it or in its folder Annotations")
    if images is None:
        beside = place.parent / "JPEGImages"
        images = beside if beside.is_dir() else place
    problems = problems or Problems(folder)
    files, hidden = _xml_files(place)
    warn_of_hidden(hidden, problems, "XML-file XML-files")
    lists = place.parent / "ImageSets" / "Main"
    listed = lists / f"{split}.txt"
    if place != folder and lists.is_dir() and not listed.is_file():
        there = sorted(file.name for file in lists.glob("*.txt") if not file.name.startswith("."))
        if there:
            raise DataError(
                f"{folder}: its lists of images have no {listed.name}; there is "
                f"{', '.join(there[:10])}. Write {listed}, with one image name per line, or give "
                f"a folder with the XML files of the {split} split"
            )
    if place != folder and listed.is_file():
        names = {line.split()[0] for line in read_text(listed).splitlines() if line.strip()}
        files = [file for file in files if file.stem in names]
        absent = sorted(names - {file.stem for file in files})
        problems.errors += [f"{name} is listed in {listed} but has no XML file" for name in absent]

    raw_images: list[RawImage] = []
    boxes: list[list[float]] = []
    names_of: list[str] = []
    owners: list[int] = []
    difficult: list[bool] = []
    for number, file in enumerate(files, start=1):
        root = _parse(file, problems)
        if root is None:
            continue
        image = _image(root, number, file, images, problems)
        if image is None:
            continue
        raw_images.append(image)
        for thing in root.iter("object"):
            name = (thing.findtext("name") or "").strip()
            if not name:
                problems.errors.append(f"{file.name}: an object without a name")
                continue
            boxes.append(_box(thing.find("bndbox")))
            names_of.append(name)
            owners.append(number)
            difficult.append((thing.findtext("difficult") or "0").strip() == "1")
    first = difficult.index(True) if any(difficult) else 0
    problems.warn(
        sum(difficult),
        "object objects",
        "marked difficult: neither trained on nor evaluated, as in VOC's protocol",
        files[owners[first] - 1].name if difficult else "",
    )
    problems.report()
    categories = tuple(Category(n, name) for n, name in enumerate(sorted(set(names_of)), start=1))
    id_of = {category.name: category.id for category in categories}
    return RawAnnotations(
        source=folder,
        categories=categories,
        images=raw_images,
        image_ids=np.array(owners, dtype=np.int64),
        category_ids=np.array([id_of[name] for name in names_of], dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        crowd=np.array(difficult, dtype=np.bool_),
        area=np.full(len(boxes), np.nan),
        describe=lambda n: f"a {one_name(names_of[n])} in {files[owners[n] - 1].name}",
        made_up_ids=True,
        order="xyxy",
    )


def _parse(file: Path, problems: Problems) -> Element | None:
    try:
        if file.stat().st_size > MAX_TEXT:
            raise ValueError(f"more than {MAX_TEXT:,} bytes, too large for one image's annotations")
        if is_utf16(file):  # whatever its declaration says
            root: Element = defusedxml.ElementTree.fromstring(read_text(file))
        else:
            root = defusedxml.ElementTree.parse(file).getroot()
    except (
        *(ParseError, defusedxml.DefusedXmlException, ValueError, LookupError, OSError),
        DataError,
    ) as error:
        reason = one_line(error) or type(error).__name__
        problems.errors.append(f"{file.name}: not readable as XML ({reason})")
        return None
    return root


def _image(
    root: Element, number: int, file: Path, images: Path, problems: Problems
) -> RawImage | None:
    name = (root.findtext("filename") or "").strip()
    path = inside(images, name) if name else images / file.stem
    if path is None:
        problems.errors.append(
            f"{file.name}: filename {shown(name)} leads out of the image folder {images}; make it "
            "relative to that folder"
        )
        return None
    if not is_file(path):
        # The file name in the XML is often stale or without its ending; the XML's own name isn't.
        endings = [case for end in sorted(SUFFIXES) for case in (end, end.upper())]
        same = (images / (file.stem + end) for end in endings)
        if (found := next((other for other in same if is_file(other)), None)) is not None:
            path, name = found, found.name
    size = (_whole(root.findtext("size/height")), _whole(root.findtext("size/width")))
    return RawImage(number, name or file.stem, path, size if min(size) > 0 else None, images)


def _box(node: Element | None) -> list[float]:
    """The box as xyxy; NaN if it can't be read."""
    if node is None:
        return [float("nan")] * 4
    x1, y1, x2, y2 = (_number(node.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
    # A box from 0 was made by a tool that counts from 0.
    return [x1 - 1 if x1 != 0 else x1, y1 - 1 if y1 != 0 else y1, x2, y2]


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _whole(text: str | None) -> int:
    number = _number(text)
    return int(number) if 0 < number <= MAX_SIDE else 0
