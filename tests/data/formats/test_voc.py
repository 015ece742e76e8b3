from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperfocal.data import read_annotations
from hyperfocal.types import Category, DataError, HyperfocalWarning


def thing(name: str, box: tuple[object, ...], more: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{inside}</bndbox></object>"


def add(xml: Path, images: Path, name: str, *things: str, filename: str | None = None) -> None:
    for folder in (xml, images):
        folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(images / f"{name}.jpg")
    size = "<size><width>100</width><height>80</height><depth>3</depth></size>"
    stated = f"{name}.jpg" if filename is None else filename
    text = f"<annotation><filename>{stated}</filename>{size}{''.join(things)}</annotation>"
    (xml / f"{name}.xml").write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A VOC tree of two images for training and one for validation."""
    root = tmp_path / "voc"
    xml, images = root / "Annotations", root / "JPEGImages"
    add(xml, images, "a", thing("cat", (11, 21, 40, 60)), thing("ant", (1, 1, 100, 80)))
    add(xml, images, "b")
    add(xml, images, "c", thing("cat", (0, 0, 10, 10)))
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c 1\n")
    return root


def test_a_tree_with_lists(root):
    train = read_annotations(root)
    assert train.categories == (Category(1, "ant"), Category(2, "cat"))
    assert [record.path.name for record in train.images] == ["a.jpg", "b.jpg"]
    # Pixels 11..40 of a row that counts from 1 are the span from 10 to 40.
    np.testing.assert_array_equal(train.images[0].boxes, [[10, 20, 40, 60], [0, 0, 100, 80]])
    np.testing.assert_array_equal(train.images[0].labels, [1, 0])
    assert train.images[1].boxes.shape == (0, 4)

    val = read_annotations(root, split="val", categories=train.categories)
    assert val.categories == train.categories
    np.testing.assert_array_equal(val.images[0].boxes, [[0, 0, 10, 10]])
    np.testing.assert_array_equal(val.images[0].labels, [1])  # not 0, as its own list would say


def test_a_folder_of_files(root):
    found = read_annotations(root / "Annotations")
    assert len(found.images) == 3
    assert found.images[0].path == root / "JPEGImages" / "a.jpg"
    assert len(read_annotations(root / "Annotations", root / "JPEGImages").images) == 3


def test_files_beside_the_images(tmp_path):
    add(tmp_path, tmp_path, "a", thing("cat", (1, 1, 5, 5)))
    assert read_annotations(tmp_path).images[0].path == tmp_path / "a.jpg"


@pytest.mark.parametrize("filename", ["old_name.jpg", "a", "", "folder/a.jpg"])
def test_a_stale_file_name_gives_way_to_that_of_the_xml(tmp_path, filename):
    add(tmp_path, tmp_path, "a", thing("cat", (1, 1, 5, 5)), filename=filename)
    assert read_annotations(tmp_path).images[0].path == tmp_path / "a.jpg"


def test_difficult_objects_are_neither_trained_on_nor_evaluated(tmp_path):
    hard = "<difficult>1</difficult>"
    easy = "<difficult>0</difficult>"
    box = (1, 1, 5, 5)
    add(tmp_path, tmp_path, "a", thing("cat", box, hard), thing("cat", box, easy))
    with pytest.warns(HyperfocalWarning, match=r"1 object marked difficult.*a\.xml"):
        found = read_annotations(tmp_path)
    np.testing.assert_array_equal(found.images[0].crowd, [True, False])


def test_names_that_train_lacks(root):
    add(root / "Annotations", root / "JPEGImages", "d", thing("dog", (1, 1, 5, 5)))
    (root / "ImageSets/Main/val.txt").write_text("c\nd\n")
    train = read_annotations(root)
    with pytest.warns(HyperfocalWarning, match=r"1 box of category 'dog'.*a dog in d\.xml"):
        val = read_annotations(root, split="val", categories=train.categories)
    assert [len(record.boxes) for record in val.images] == [1, 0]


def test_ids_invented_for_names_do_not_clash_with_those_of_train(root):
    """Here dog would be 2, which is cat in train: no renamed category, for VOC numbers none."""
    xml = root / "Annotations"
    add(xml, root / "JPEGImages", "c", thing("ant", (1, 1, 5, 5)), thing("dog", (1, 1, 5, 5)))
    train = read_annotations(root)
    with pytest.warns(HyperfocalWarning, match="1 box of category 'dog'"):
        val = read_annotations(root, split="val", categories=train.categories)
    np.testing.assert_array_equal(val.images[0].labels, [0])


@pytest.mark.parametrize("box", [("", 1, 5, 5), ("x", 1, 5, 5), ("nan", 1, 5, 5)])
def test_boxes_that_cannot_be_read_are_left_out(tmp_path, box):
    add(tmp_path, tmp_path, "a", thing("cat", box), thing("cat", (1, 1, 5, 5)))
    (tmp_path / "b.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    Image.new("RGB", (5, 5)).save(tmp_path / "b.jpg")
    pattern = r"2 boxes missing or not finite.*a cat in a\.xml"
    with pytest.warns(HyperfocalWarning, match=pattern):
        found = read_annotations(tmp_path)
    assert [len(record.boxes) for record in found.images] == [1, 0]
    assert found.images[1].height == 5  # from the file, for the XML gives none


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><annotation><filename>&a;</filename></annotation>'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("<annotation>", r"b\.xml: not readable as XML"),
        ("", r"b\.xml: not readable as XML"),
        (BOMB, r"b\.xml: not readable as XML \(Entities"),
        ("<annotation><object/></annotation>", r"b\.xml: an object without a name"),
        (
            "<annotation><filename>../a.jpg</filename></annotation>",
            r"b\.xml: filename '\.\./a\.jpg' leads out of the image folder",
        ),
        (
            "<annotation><filename>/etc/passwd</filename></annotation>",
            r"b\.xml: filename '/etc/passwd' leads out of the image folder",
        ),
        ("<annotation/>", r"image id 2: .*b: no such image file"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, what):
    add(tmp_path, tmp_path, "a", thing("cat", (1, 1, 5, 5)))
    (tmp_path / "b.xml").write_text(text)
    with pytest.raises(DataError, match=what):
        read_annotations(tmp_path)


def test_a_list_of_files_that_are_not_there(root):
    (root / "ImageSets/Main/train.txt").write_text("a\nz\n")
    with pytest.raises(DataError, match=r"z is listed in .*train\.txt but has no XML file"):
        read_annotations(root)
