"""Open Images' files as a split: boxes in pixels, lists by image, labels of the training split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hyperfocal.data import read_annotations
from hyperfocal.data.formats.openimages_split import OpenImagesFiles
from hyperfocal.types import AnnotationSet, Category, DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images with boxes and one with a label only; the second category is under the first."""
    (tmp_path / "boxes.csv").write_text(
        "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
        "fb,/m/cat,0.25,0.5,0.5,1,0\nfb,/m/car,0,1,0,1,1\n0a,/m/cat,0,0.5,0,0.5,0\n"
        "0a,/m/else,0,1,0,1,0\n"
    )
    (tmp_path / "labels.csv").write_text(
        "ImageID,LabelName,Confidence\n0a,/m/cat,1\nzz,/m/pet,0\n0a,/m/else,1\n"
    )
    (tmp_path / "classes.csv").write_text("/m/pet,Pet\n/m/cat,Cat\n/m/car,Car\n")
    pet = {"LabelName": "/m/pet", "Subcategory": [{"LabelName": "/m/cat"}]}
    tree = {"LabelName": "/m/0bl9f", "Subcategory": [pet, {"LabelName": "/m/car"}]}
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    for name in ("0a", "fb", "zz"):
        Image.new("RGB", (40, 20)).save(tmp_path / f"{name}.jpg")
    return tmp_path


def read(folder: Path, categories: tuple[Category, ...] | None = None) -> AnnotationSet:
    files = OpenImagesFiles(*(folder / n for n in ("classes.csv", "labels.csv", "tree.json")))
    return read_annotations(folder / "boxes.csv", folder, categories=categories, openimages=files)


def test_boxes_are_pixels_and_images_with_labels_alone_count(folder: Path) -> None:
    split = read(folder)
    assert [c.name for c in split.categories] == ["Pet", "Cat", "Car"]
    assert [record.path.stem for record in split.images] == ["0a", "fb", "zz"]
    first, second, third = split.images
    assert first.boxes.tolist() == [[0, 0, 20, 10]]
    assert second.boxes.tolist() == [[10, 10, 20, 20], [0, 0, 40, 20]]
    assert second.labels.tolist() == [1, 2]
    assert second.crowd.tolist() == [False, True]
    assert len(third.labels) == 0
    assert split.counts().instances == (0, 2, 0)  # a group-of box isn't trained on
    lists = split.openimages
    assert lists is not None
    assert (lists.positive, lists.negative) == ({1: {1}}, {3: {0}})
    assert lists.ancestors == (frozenset(), frozenset({0}), frozenset())


def test_labels_are_those_of_the_training_split(folder: Path) -> None:
    """Matched by name; categories that it lacks are left out, also above others."""
    with pytest.warns(match="1 box of category 'Car'"):
        split = read(folder, (Category(7, "Cat"), Category(9, "Pet")))
    assert split.images[0].labels.tolist() == [0]
    assert split.openimages is not None
    assert split.openimages.ancestors == (frozenset({1}), frozenset())
    assert (split.openimages.positive, split.openimages.negative) == ({1: {0}}, {3: {1}})
    with pytest.warns(match="left out"):
        split = read(folder, (Category(7, "Cat"),))
    assert split.openimages is not None
    assert split.openimages.ancestors == (frozenset(),)


def test_without_labels_only_images_with_boxes(folder: Path) -> None:
    files = OpenImagesFiles(classes=folder / "classes.csv")
    split = read_annotations(folder / "boxes.csv", openimages=files)
    assert [record.path.stem for record in split.images] == ["0a", "fb"]
    assert split.openimages is None


def test_files_that_are_missing_or_too_many_are_named(folder: Path) -> None:
    boxes, classes = folder / "boxes.csv", folder / "classes.csv"
    with pytest.raises(DataError, match=r"give --data\.train\.classes"):
        read_annotations(boxes)
    files = OpenImagesFiles(classes, image_labels=folder / "labels.csv")
    with pytest.raises(DataError, match=r"--data\.val\.hierarchy, or neither"):
        read_annotations(boxes, split="val", openimages=files)
    with pytest.raises(DataError, match=r"--data\.train\.classes goes with Open Images' boxes"):
        read_annotations(folder / "tree.json", openimages=OpenImagesFiles(classes))
    (folder / "zz.jpg").unlink()
    with pytest.raises(DataError, match=r"zz\.jpg"):
        read(folder)
