"""Image and label files whose names are written differently in the annotations than on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hyperfocal.data import read_annotations
from hyperfocal.data.file_names import FileNames, holds_any
from hyperfocal.types import DataError, HyperfocalWarning


def image(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (len(path.name), 9, 200)).save(path)
    return path


def coco(names: list[str]) -> dict[str, Any]:
    """An image of 64x48 with one box for each name."""
    images = [
        {"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names)
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [8, 8, 20, 20]}
        for n in range(len(names))
    ]
    return {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "ant"}]}


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def paths(root: Path, names: list[str], images: Path, **options: Any) -> list[Path]:
    found = read_annotations(write(root / "a.json", coco(names)), images, **options)
    return [record.path for record in found.images]


# ------------------------------------------------------------------ folders in front


def test_a_folder_beside_the_image_folder_is_another_folder(tmp_path: Path) -> None:
    for n in (1, 2):
        image(tmp_path / f"cam1/{n}.jpg")
        image(tmp_path / f"cam2/{n}.jpg")
    names = ["cam1/1.jpg", "cam2/1.jpg", "cam2/2.jpg"]
    assert paths(tmp_path, names, tmp_path) == [tmp_path / name for name in names]
    with pytest.raises(DataError, match=r"image id 2: .*cam2/2\.jpg: no such"):
        paths(tmp_path, names, tmp_path / "cam1")
    with pytest.raises(DataError, match=r"cam2/2\.jpg: no such"):
        paths(tmp_path, ["cam2/2.jpg"], tmp_path / "cam1")


def test_own_folders_in_front_are_dropped(tmp_path: Path) -> None:
    one, two = image(tmp_path / "cam1/1.jpg"), image(tmp_path / "cam1/2.jpg")
    with pytest.warns(HyperfocalWarning, match="1 image found although the name begins with"):
        assert paths(tmp_path, ["cam1/1.jpg", "2.jpg"], tmp_path / "cam1") == [one, two]


def test_folders_that_all_names_have_are_dropped(tmp_path: Path) -> None:
    names = ["a/1.jpg", "b/1.jpg"]
    files = [image(tmp_path / "set" / name) for name in names]
    with pytest.warns(HyperfocalWarning, match="2 images found although the name begins with"):
        assert paths(tmp_path, [f"x/y/{name}" for name in names], tmp_path / "set") == files


def test_some_names_with_foreign_folders_are_missing(tmp_path: Path) -> None:
    for n in (1, 2):
        image(tmp_path / f"set/{n}.jpg")
    with pytest.raises(DataError, match=r"image id 1: .*x/2\.jpg: no such"):
        paths(tmp_path, ["1.jpg", "x/2.jpg"], tmp_path / "set")


def test_two_names_never_get_one_file(tmp_path: Path) -> None:
    image(tmp_path / "set/a.jpg")
    with pytest.raises(DataError, match=r"image id 1: .*A\.jpg: no such .*there is 'a\.jpg'"):
        paths(tmp_path, ["a.jpg", "A.jpg"], tmp_path / "set")
    with pytest.raises(DataError, match="none of the 2 image files"):
        paths(tmp_path, ["x/1/a.jpg", "x/2/a.jpg"], tmp_path / "set")


# ------------------------------------------------------------------ upper and lower case


def test_folders_and_files_differ_in_case(tmp_path: Path) -> None:
    file = image(tmp_path / "set/Part/One.JPG")
    with pytest.warns(HyperfocalWarning, match="found although upper and lower case"):
        assert paths(tmp_path, ["part/one.jpg"], tmp_path / "set") == [file]
    with pytest.warns(HyperfocalWarning, match="found although upper and lower case"):
        assert paths(tmp_path, ["part/one.jpg"], tmp_path / "set", check="none") == [file]


def test_the_exact_name_comes_first(tmp_path: Path) -> None:
    files = [image(tmp_path / "set" / name) for name in ("a.jpg", "A.jpg")]
    assert paths(tmp_path, ["a.jpg", "A.jpg"], tmp_path / "set") == files
    names = FileNames()
    assert names.find(tmp_path, "SET/A.jpg") == files[1]
    assert names.find(tmp_path / "set", "a.JPG") is None  # two files differ from it alike


def test_image_folders_are_found_by_other_spellings(tmp_path: Path) -> None:
    image(tmp_path / "images/pic 1.JPG")
    assert holds_any(tmp_path / "images", ["pic%201.jpg"])
    assert not holds_any(tmp_path, ["pic%201.jpg"])
    with pytest.warns(HyperfocalWarning, match="found although"):
        read_annotations(write(tmp_path / "a.json", coco(["pic%201.jpg"])))


def test_another_suffix_is_named(tmp_path: Path) -> None:
    for n in range(30):
        image(tmp_path / f"set/{n}.png")
    with pytest.raises(DataError, match=r"for '0\.jpg' there is '0\.png'; correct the file names"):
        paths(tmp_path, [f"{n}.jpg" for n in range(30)], tmp_path / "set")


def test_label_files_differ_in_case(tmp_path: Path) -> None:
    image(tmp_path / "images/One.jpg")
    image(tmp_path / "images/two.jpg")
    for name in ("one.txt", "two.TXT"):
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / name).write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [ant]\ntrain: images\n")
    with pytest.warns(HyperfocalWarning, match="2 label-files found although upper and lower"):
        found = read_annotations(tmp_path / "data.yaml")
    assert [len(record.labels) for record in found.images] == [1, 1]


# ------------------------------------------------------------------ links


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("kind", ["coco", "csv", "voc"])
def test_links_out_of_the_folder_are_errors(tmp_path: Path, kind: str, absolute: bool) -> None:
    image(tmp_path / "secret/1.jpg")
    (tmp_path / "set").mkdir()
    os.symlink(tmp_path / "secret", tmp_path / "set/linked")
    name = str(tmp_path / "set/linked/1.jpg") if absolute else "linked/1.jpg"
    source = tmp_path / {"coco": "a.json", "csv": "a.csv", "voc": "xml"}[kind]
    if kind == "coco":
        write(source, coco([name]))
    elif kind == "csv":
        source.write_text(f"{name},8,8,28,28,ant\n")
    else:
        source.mkdir()
        box = "<xmin>9</xmin><ymin>9</ymin><xmax>28</xmax><ymax>28</ymax>"
        (source / "1.xml").write_text(
            f"<annotation><filename>{name}</filename><object><name>ant</name>"
            f"<bndbox>{box}</bndbox></object></annotation>"
        )
    with pytest.raises(DataError, match="is a link out of the image folder"):
        read_annotations(source, tmp_path / "set")
    found = read_annotations(source, tmp_path / "set", follow_links=True)
    assert [len(record.labels) for record in found.images] == [1]


# ------------------------------------------------------------------ hidden files


def test_hidden_xml_files_are_counted(tmp_path: Path) -> None:
    image(tmp_path / "1.jpg")
    box = "<xmin>9</xmin><ymin>9</ymin><xmax>28</xmax><ymax>28</ymax>"
    text = f"<annotation><object><name>ant</name><bndbox>{box}</bndbox></object></annotation>"
    for name in ("1.xml", "._1.xml"):
        (tmp_path / name).write_text(text)
    with pytest.warns(HyperfocalWarning, match="1 XML-file left out because .* hidden"):
        found = read_annotations(tmp_path, tmp_path)
    assert len(found.images) == 1


# ------------------------------------------------------------------ several annotation files


def test_images_of_several_files_are_one(tmp_path: Path) -> None:
    for n in range(3):
        image(tmp_path / f"set/{n}.jpg")
    first, second = coco(["0.jpg", "1.jpg"]), coco(["1.JPG", "2.jpg"])
    second["annotations"].append({"id": 9, "image_id": 0, "category_id": 2, "bbox": [8, 8, 20, 20]})
    second["categories"].append({"id": 2, "name": "bee"})
    files = [write(tmp_path / "a.json", first), write(tmp_path / "b.json", second)]
    with pytest.warns(HyperfocalWarning) as warned:
        found = read_annotations(files, tmp_path / "set")
    assert any("1 box in several annotation files, used once" in str(w.message) for w in warned)
    assert [record.path.name for record in found.images] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [record.labels.tolist() for record in found.images] == [[0], [0, 1], [0]]


def test_long_image_ids_stay_distinct_in_several_files(tmp_path: Path) -> None:
    contents = []
    for n in range(2):
        image(tmp_path / f"set/{n}.jpg")
        content = coco([f"{n}.jpg"])
        content["images"][0]["id"] = content["annotations"][0]["image_id"] = 2**60 + n
        contents.append(write(tmp_path / f"{n}.json", content))
    found = read_annotations(contents, tmp_path / "set")
    assert [len(record.labels) for record in found.images] == [1, 1]
