"""Boxes in another unit, order or scale than their format's."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hyperfocal.data import read_annotations
from hyperfocal.types import AnnotationSet, DataError, HyperfocalWarning

SIZE = (128, 96)
"""Width and height of the files."""

BOXES = [[10, 12, 40, 30], [60, 40, 60, 50], [5, 50, 30, 40], [90, 5, 36, 80]]
"""xywh in pixels of the files; together they fill the image."""


class Case:
    """Eight images with a box each; tests change ``content`` before it is read."""

    def __init__(self, root: Path, count: int = 8) -> None:
        self.root = root
        for n in range(count):
            self.file(n)
        self.content: dict[str, Any] = {
            "images": [
                {"id": n, "file_name": f"{n}.png", "width": SIZE[0], "height": SIZE[1]}
                for n in range(count)
            ],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "bbox": list(BOXES[n % 4])}
                for n in range(count)
            ],
            "categories": [{"id": 1, "name": "ant"}],
        }

    def file(self, n: int, size: tuple[int, int] = SIZE, rotated: bool = False) -> None:
        exif = Image.Exif()
        if rotated:
            exif[0x0112] = 6  # displayed turned by 90 degrees
        Image.new("RGB", size, (n, 0, 0)).save(self.root / f"{n}.png", exif=exif)

    def annotate(self, n: int, size: tuple[int, int], box: list[float]) -> None:
        self.content["images"][n] |= {"width": size[0], "height": size[1]}
        self.content["annotations"][n]["bbox"] = box

    def read(self, **options: Any) -> AnnotationSet:
        (self.root / "a.json").write_text(json.dumps(self.content))
        return read_annotations(self.root / "a.json", self.root, **options)

    def boxes(self, **options: Any) -> list[list[float]]:
        """Xywh of every box, in the order of the images."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HyperfocalWarning)
            found = self.read(**options)
        xyxy = np.concatenate([record.boxes for record in found.images])
        return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1).tolist()


def half(values: list[int]) -> list[float]:
    return [value / 2 for value in values]


# ------------------------------------------------------------------ scale


def test_half_size_boxes_are_scaled(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(8):
        case.annotate(n, (64, 48), half(BOXES[n % 4]))
    with pytest.warns(HyperfocalWarning) as warned:
        case.read()
    assert any("8 images annotated at another size" in str(w.message) for w in warned)
    assert case.boxes() == BOXES * 2


def test_one_odd_image_does_not_stop_the_scaling(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(7):
        case.annotate(n, (64, 48), half(BOXES[n % 4]))
    assert case.boxes() == BOXES * 2


def test_a_single_wrong_size_scales_no_box(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.annotate(0, (64, 48), BOXES[0])
    with pytest.warns(HyperfocalWarning, match="1 image with a wrong width or height"):
        case.read()
    assert case.boxes() == BOXES * 2


def test_boxes_that_are_in_pixels_of_smaller_files_stay(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(8):
        case.annotate(n, (256, 192), BOXES[n % 4])
    assert case.boxes() == BOXES * 2


def test_boxes_that_are_in_pixels_of_larger_files_stay(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(8):
        case.annotate(n, (64, 48), BOXES[n % 4])
    assert case.boxes() == BOXES * 2


def test_boxes_of_shrunken_files_are_scaled(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(8):
        case.annotate(n, (256, 192), [2 * value for value in BOXES[n % 4]])
    assert case.boxes() == BOXES * 2


def test_squashed_images_are_scaled_by_axis(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(8):
        x, y, w, h = BOXES[n % 4]
        case.annotate(n, (192, 96), [1.5 * x, y, 1.5 * w, h])
    assert case.boxes() == BOXES * 2


def test_sizes_from_before_a_rotation_are_scaled_too(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(8):
        case.file(n, (SIZE[1], SIZE[0]), rotated=True)  # displayed as SIZE
        case.annotate(n, (48, 64), half(BOXES[n % 4]))
    assert case.boxes() == BOXES * 2


def test_a_rotation_alone_scales_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(8):
        case.file(n, (SIZE[1], SIZE[0]), rotated=True)
        case.annotate(n, (SIZE[1], SIZE[0]), BOXES[n % 4])
    with pytest.warns(HyperfocalWarning, match="8 images annotated with the size from before EXIF"):
        case.read()
    assert case.boxes() == BOXES * 2


def test_many_shrunken_images_are_scaled_though_most_are_not(tmp_path: Path) -> None:
    case = Case(tmp_path, 24)
    for n in range(8):
        case.annotate(n, (64, 48), half(BOXES[n % 4]))
    assert case.boxes() == BOXES * 6


# ------------------------------------------------------------------ units


def test_most_boxes_in_fractions_are_refused(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(7):
        case.annotate(n, SIZE, [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(DataError, match=r"7 of 8 boxes .* fractions"):
        case.read()
    with pytest.raises(DataError, match=r"7 of 8 boxes .* fractions"):
        case.read(check="none")


def test_a_few_boxes_in_fractions_are_counted(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(3):
        case.annotate(n, SIZE, [0.1, 0.2, 0.3, 0.4])
    with pytest.warns(HyperfocalWarning, match=r"3 boxes in the first pixel .*annotation id 0"):
        assert len(case.read().images) == 8


# ------------------------------------------------------------------ order of the numbers


def test_corners_in_place_of_sizes_are_refused(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(8):
        x, y, w, h = [(40, 30, 70, 60), (60, 40, 60, 50), (50, 45, 60, 50), (60, 40, 66, 50)][n % 4]
        case.annotate(n, SIZE, [x, y, x + w if x + w < 128 else 127, y + h if y + h < 96 else 95])
    with pytest.raises(DataError, match="seem to be x1 y1 x2 y2 where x y width height is meant"):
        case.read()


def test_large_boxes_that_stand_out_a_little_are_used(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for n in range(8):
        case.annotate(n, SIZE, [1 + n % 2, 1, 127, 94])
    assert len(case.boxes()) == 8


@pytest.mark.parametrize("kind", ["csv", "voc"])
def test_sizes_in_place_of_corners_are_refused(tmp_path: Path, kind: str) -> None:
    case = Case(tmp_path)
    rows = [(n, BOXES[n % 4]) for n in range(8)]
    if kind == "csv":
        source = tmp_path / "a.csv"
        source.write_text("".join(f"{n}.png,{x},{y},{w},{h},ant\n" for n, (x, y, w, h) in rows))
    else:
        source = tmp_path / "xml"
        source.mkdir()
        for n, (x, y, w, h) in rows:
            (source / f"{n}.xml").write_text(
                f"<annotation><filename>{n}.png</filename><object><name>ant</name><bndbox>"
                f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{w}</xmax><ymax>{h}</ymax>"
                "</bndbox></object></annotation>"
            )
    with pytest.raises(DataError, match="seem to be x y width height where x1 y1 x2 y2 is meant"):
        read_annotations(source, case.root)


# ------------------------------------------------------------------ numbers as text


def test_numbers_may_be_text(tmp_path: Path) -> None:
    case = Case(tmp_path)
    for entry in case.content["images"]:
        entry |= {"id": str(entry["id"]), "width": str(entry["width"])}
    for entry in case.content["annotations"]:
        entry |= {"image_id": str(entry["image_id"]), "category_id": "1", "iscrowd": "0"}
        entry["bbox"] = [str(value) for value in entry["bbox"]]
    found = case.read()
    assert [record.id for record in found.images] == list(range(8))
    assert not any(record.crowd.any() for record in found.images)
    assert case.boxes() == BOXES * 2


@pytest.mark.parametrize(("value", "crowd"), [(1, True), ("1", True), (False, False), (1.0, True)])
def test_crowd_flags(tmp_path: Path, value: object, crowd: bool) -> None:
    case = Case(tmp_path)
    case.content["annotations"][0]["iscrowd"] = value
    assert case.read().images[0].crowd.tolist() == [crowd]


@pytest.mark.parametrize("value", ["no", 2, -1, [0]])
def test_impossible_crowd_flags(tmp_path: Path, value: object) -> None:
    case = Case(tmp_path)
    case.content["annotations"][3]["iscrowd"] = value
    with pytest.raises(DataError, match=r"annotation id 3 has iscrowd = .* must be 0 or 1"):
        case.read()


def test_a_polygon_replaces_a_box_of_size_0(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.content["annotations"][0] |= {
        "bbox": [0, 0, 0, 0],
        "segmentation": [[10, 12, 50, 12, 50, 42, 10, 42]],
    }
    with pytest.warns(HyperfocalWarning, match=r"1 annotation .*box around the segmentation"):
        case.read()
    assert case.boxes() == BOXES * 2
