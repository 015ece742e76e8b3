from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperfocal.data import read_annotations
from hyperfocal.types import Category, DataError, HyperfocalWarning

CATEGORIES = (Category(0, "ant"), Category(1, "cat"))
YAML = "names: [ant, cat]\ntrain: images/train\nval: images/val\n"


def add(root: Path, images: str, labels: str, name: str, text: str | None, hw=(80, 100)) -> None:
    for folder in (images, labels):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", hw[::-1]).save(root / images / f"{name}.png")
    if text is not None:
        (root / labels / f"{name}.txt").write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    add(root, "images/train", "labels/train", "a", "1 0.25 0.5 0.3 0.5\n\n0 0.5 0.5 1 1\n")
    add(root, "images/train", "labels/train", "b", "")
    add(root, "images/train", "labels/train", "c", None)
    add(root, "images/val", "labels/val", "d", "0 0.1 0.1 0.2 0.2", hw=(20, 10))
    (root / "data.yaml").write_text(YAML)
    return root


def check_train(found) -> None:
    assert found.categories == CATEGORIES
    assert [record.path.name for record in found.images] == ["a.png", "b.png", "c.png"]
    assert [record.id for record in found.images] == [1, 2, 3]
    np.testing.assert_allclose(found.images[0].boxes, [[10, 20, 40, 60], [0, 0, 100, 80]])
    np.testing.assert_array_equal(found.images[0].labels, [1, 0])
    np.testing.assert_allclose(found.images[0].area, [1200, 8000])
    assert [len(record.boxes) for record in found.images] == [2, 0, 0]


@pytest.mark.parametrize("check", ["none", "headers", "decode"])
def test_data_yaml_and_its_folder(root, check):
    check_train(read_annotations(root / "data.yaml", check=check))
    check_train(read_annotations(root, check=check))
    check_train(read_annotations(root, root / "images" / "train", check=check))
    val = read_annotations(root, split="val", categories=CATEGORIES, check=check)
    np.testing.assert_allclose(val.images[0].boxes, [[0, 0, 2, 4]])


def test_a_folder_of_labels(root):
    labels, images = root / "labels" / "train", root / "images" / "train"
    with pytest.raises(DataError, match=r"label files without names; put a classes\.txt"):
        read_annotations(labels, images)
    check_train(read_annotations(labels, images, categories=CATEGORIES))
    (labels / "classes.txt").write_text("ant\ncat\n")
    check_train(read_annotations(labels, images))
    with pytest.raises(DataError, match=r"name the image folder with --data\.val\.images"):
        read_annotations(labels, split="val")


def test_labels_beside_the_images(tmp_path):
    add(tmp_path, "pictures", "pictures", "a", "0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text("names: {0: ant}\ntrain: pictures\n")
    found = read_annotations(tmp_path)
    np.testing.assert_allclose(found.images[0].boxes, [[25, 20, 75, 60]])


def test_a_folder_named_images_further_up_is_not_mistaken(tmp_path):
    root = tmp_path / "images" / "mine"
    add(root, "train", "train", "a", "0 0.5 0.5 0.5 0.5")
    (root / "data.yaml").write_text("names: [ant]\ntrain: train\n")
    assert len(read_annotations(root).images[0].boxes) == 1


def test_forms_that_a_yaml_takes(root):
    listing = root / "list.txt"
    listing.write_text("images/train/a.png\n./images/train/b.png\nimages/train/c.png\n")
    for text in (
        "names: {1: cat, 0: ant}\npath: .\ntrain: images/train\n",
        "names: [ant, cat]\ntrain: ['images/train']\n",
        f"names: [ant, cat]\npath: {root}\ntrain: images/train\n",
        "names: [ant, cat]\ntrain: ../images/train\n",  # as some exports have it
        "names: [ant, cat]\ntrain: list.txt\n",
    ):
        (root / "data.yaml").write_text(text)
        check_train(read_annotations(root))


def test_polygons_give_the_box_around_them(root):
    (root / "labels/train/a.txt").write_text("1 0.1 0.25 0.4 0.5 0.2 0.75\n")
    found = read_annotations(root)
    np.testing.assert_allclose(found.images[0].boxes, [[10, 20, 40, 60]])


def test_boxes_that_stand_out_are_clipped(root):
    (root / "labels/train/b.txt").write_text("0 0.0 0.5 1.0 0.5\n0 1.5 0.5 0.2 0.2\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_annotations(root)
    texts = [str(warning.message) for warning in caught]
    assert "1 box outside the image, left out (first: b.txt line 2" in texts[0]
    assert "1 box partly outside the image, clipped (first: b.txt line 1" in texts[1]
    np.testing.assert_allclose(found.images[1].boxes, [[0, 20, 50, 60]])


def test_labels_without_an_image(root):
    (root / "labels/train/ghost.txt").write_text("0 0.5 0.5 0.5 0.5")
    with pytest.warns(HyperfocalWarning, match=r"1 label-file without an image .*ghost\.txt"):
        check_train(read_annotations(root))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("0 0.5 0.5 0.5", "expected a class number and 4 values"),
        ("0 0.5 0.5 0.5 x", "could not convert"),
        ("ant 0.5 0.5 0.5 0.5", "the first word must be a class number"),
        ("-1 0.5 0.5 0.5 0.5", "the first word must be a class number"),
        ("0.5 0.5 0.5 0.5 0.5", "the first word must be a class number"),
        ("0 50 40 10 10", "coordinates must be fractions of the image"),
        ("0 inf 0.5 0.5 0.5", "coordinates must be fractions of the image"),
    ],
)
def test_lines_that_cannot_be_read(root, line, what):
    (root / "labels/train/b.txt").write_text(f"0 0.5 0.5 0.5 0.5\n{line}\n")
    with pytest.raises(DataError, match=rf"data\.yaml: .*b\.txt line 2: {what}"):
        read_annotations(root)


def test_not_a_number_is_left_out(root):
    (root / "labels/train/b.txt").write_text("0 nan 0.5 0.5 0.5\n")
    with pytest.warns(HyperfocalWarning, match=r"1 box missing or not finite.*b\.txt line 1"):
        check_train(read_annotations(root))


def test_unknown_classes_are_an_error(root):
    (root / "labels/train/b.txt").write_text("2 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DataError, match=r"category id 2 is used 1 time \(first: b.txt line 1\)"):
        read_annotations(root)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("train: images/train", "no names in it"),
        ("names: []\ntrain: images/train", "no names in it"),
        ("names: {ant: 0}\ntrain: images/train", "keys of names must be class numbers"),
        ("names: [ant, cat]", "no entry 'train' in it"),
        ("names: [ant, cat]\ntrain: images/none", "the image folder does not exist"),
        ("names: [ant, cat]\ntrain: /etc", "'/etc' leads out of"),
        ("names: [ant, cat]\ntrain: ../../x", "leads out of"),
        ("names: [ant, cat]\npath: /etc\ntrain: x", "'/etc' leads out of"),
        ("names: [ant, cat]\ntrain: bad.txt", "'/etc/a.jpg' leads out of"),
        ("names: [ant", "not readable as YAML"),
        ("- a\n- b", "expected fields such as names"),
        ("names: !!python/object/apply:os.system ['true']", "not readable as YAML"),
    ],
)
def test_bad_yaml(root, text, what):
    (root / "bad.txt").write_text("/etc/a.jpg\n")
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=what):
        read_annotations(root / "data.yaml")


def test_a_folder_without_images_or_without_any_label_file(root):
    (root / "images/none").mkdir()
    (root / "data.yaml").write_text("names: [ant, cat]\ntrain: images/none\n")
    with pytest.raises(DataError, match="no images in it"):
        read_annotations(root)
    (root / "data.yaml").write_text(YAML)
    for file in (root / "labels/train").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no label file belongs to .*labels/train/a\.txt"):
        read_annotations(root)


def test_damaged_images(root):
    (root / "images/train/b.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"image id 2: .*b\.png: not an image"):
        read_annotations(root)
    with pytest.warns(HyperfocalWarning, match="1 image left out as unusable"):
        found = read_annotations(root, bad_images="skip")
    assert [record.id for record in found.images] == [1, 3]
