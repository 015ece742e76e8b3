"""Data as other tools write it: read correctly, or refused with the fix."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hyperfocal.data import DataConfig, Split, read_annotations
from hyperfocal.data.formats.openimages_split import OpenImagesFiles
from hyperfocal.data.formats.segmentation import segmentation_box
from hyperfocal.data.splits import read_splits
from hyperfocal.types import AnnotationSet, ConfigError, DataError, HyperfocalWarning

BOX = [10.0, 12.0, 40.0, 30.0]
"""Of every image, xyxy."""


def save_image(path: Path, seed: int = 0, size: tuple[int, int] = (96, 72)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def coco(root: Path, **changes: Any) -> dict[str, Any]:
    """Three images with a box each; ``root`` gets the files."""
    x1, y1, x2, y2 = BOX
    for n in (1, 2, 3):
        save_image(root / f"images/pic_{n}.jpg", n)
    images = [{"id": n, "file_name": f"pic_{n}.jpg", "width": 96, "height": 72} for n in (1, 2, 3)]
    boxes = [
        {"id": n, "image_id": n, "category_id": 7, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
        for n in (1, 2, 3)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "ant"}]}
    return content | changes


def read(root: Path, content: dict[str, Any], **options: Any) -> AnnotationSet:
    (root / "a.json").write_text(json.dumps(content))
    return read_annotations(root / "a.json", root / "images", **options)


def boxes_of(found: AnnotationSet) -> list[list[float]]:
    return [row for record in found.images for row in record.boxes.tolist()]


# ------------------------------------------------------------------ file names


def renamed(root: Path, names: Callable[[int], str]) -> dict[str, Any]:
    content = coco(root)
    for entry in content["images"]:
        entry["file_name"] = names(entry["id"])
    return content


@pytest.mark.parametrize(
    ("disk", "written", "why"),
    [
        ("a/pic_{}.jpg", "a\\pic_{}.jpg", "Windows' separators"),
        ("pic {}.jpg", "pic%20{}.jpg", "percent-encoded"),
        ("Snap_{}.JPG", "snap_{}.jpg", "upper and lower case"),
        ("e\u0301{}.jpg", "\u00e9{}.jpg", "Unicode"),
        ("p{}.jpg", "images/p{}.jpg", "begins with folders"),
        ("b/p{}.jpg", "data\\B\\p{}.JPG", "begins with folders"),
    ],
)
def test_names_written_differently_are_found(
    tmp_path: Path, disk: str, written: str, why: str
) -> None:
    content = renamed(tmp_path, written.format)
    for n in (1, 2, 3):
        save_image(tmp_path / "images" / disk.format(n), n)
    with pytest.warns(HyperfocalWarning, match=f"3 images found although .*{why}"):
        found = read(tmp_path, content)
    assert [record.path.name for record in found.images] == [
        Path(disk.format(n)).name for n in (1, 2, 3)
    ]
    assert boxes_of(found) == [BOX] * 3


def test_absolute_names_inside_the_folder_are_used(tmp_path: Path) -> None:
    content = renamed(tmp_path, lambda n: str(tmp_path / f"images/pic_{n}.jpg"))
    assert boxes_of(read(tmp_path, content)) == [BOX] * 3
    content = renamed(tmp_path, lambda n: str(tmp_path / f"secret/pic_{n}.jpg"))
    with pytest.raises(DataError, match="leads out of the image folder"):
        read(tmp_path, content)


def test_a_name_that_fits_two_files_fits_none_and_a_near_one_is_named(tmp_path: Path) -> None:
    content = renamed(tmp_path, lambda n: f"pic_{n}.jpg" if n > 1 else "twin.jpg")
    for name in ("Twin.jpg", "TWIN.jpg"):
        save_image(tmp_path / "images" / name)
    with pytest.raises(DataError, match=r"image id 1: .*no such image file; there is 'TWIN.jpg'"):
        read(tmp_path, content)


def test_a_found_file_must_not_be_a_link_out(tmp_path: Path) -> None:
    content = renamed(tmp_path, lambda n: f"pic_{n}.jpg" if n > 1 else "LINK.jpg")
    (tmp_path / "images/link.jpg").symlink_to(save_image(tmp_path / "secret.jpg"))
    with pytest.raises(DataError, match="link out of the image folder"):
        read(tmp_path, content)


# ------------------------------------------------------------------ COCO


def test_fractions_are_refused(tmp_path: Path) -> None:
    content = coco(tmp_path)
    for entry in content["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(DataError, match=r"3 of 3 boxes .*fractions .*multiply x and width"):
        read(tmp_path, content)


def test_boxes_of_half_size_previews_are_scaled(tmp_path: Path) -> None:
    content = coco(tmp_path)
    for entry in content["images"]:
        entry |= {"width": 48, "height": 36}
    for entry in content["annotations"]:
        entry["bbox"] = [value / 2 for value in entry["bbox"]]
    with pytest.warns(HyperfocalWarning) as warned:
        found = read(tmp_path, content)
    assert any("boxes were scaled" in str(w.message) for w in warned)
    assert boxes_of(found) == [BOX] * 3
    # One image with a wrong size is a wrong size: its box stays.
    content = coco(tmp_path)
    content["images"][0] |= {"width": 48, "height": 36}
    with pytest.warns(HyperfocalWarning, match="1 image with a wrong width or height"):
        assert boxes_of(read(tmp_path, content)) == [BOX] * 3
    # Boxes beyond the annotated size can't have been drawn in it.
    content = coco(tmp_path)
    for entry in content["images"]:
        entry |= {"width": 32, "height": 24}
    with pytest.warns(HyperfocalWarning, match="wrong width or height"):
        assert boxes_of(read(tmp_path, content)) == [BOX] * 3


def test_segmentations_without_boxes_give_the_boxes_around_them(tmp_path: Path) -> None:
    from pycocotools import mask as masks

    polygon = [10, 12, 40, 12, 40, 30, 25, 20]
    pixels = np.zeros((72, 96), np.uint8, order="F")
    pixels[12:30, 10:40] = 1
    packed = masks.encode(pixels)
    flat = pixels.flatten(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    runs = np.diff([0, *changes, len(flat)]).tolist()
    content = coco(tmp_path)
    for entry, segmentation in zip(
        content["annotations"],
        (
            [polygon],
            {"size": [72, 96], "counts": packed["counts"].decode()},
            {"size": [72, 96], "counts": runs},
        ),
        strict=True,
    ):
        del entry["bbox"]
        entry["segmentation"] = segmentation
    with pytest.warns(HyperfocalWarning, match="3 annotations without bbox.*: the box around"):
        assert boxes_of(read(tmp_path, content)) == [BOX] * 3


@pytest.mark.parametrize("seed", range(20))
def test_mask_boxes_are_pycocotools(seed: int) -> None:
    from pycocotools import mask as masks

    rng = np.random.default_rng(seed)
    pixels = np.asfortranarray((rng.random((17, 23)) < rng.choice([0.01, 0.3])).astype(np.uint8))
    packed = masks.encode(pixels)
    x, y, w, h = masks.toBbox(packed).tolist()
    found = segmentation_box({"size": [17, 23], "counts": packed["counts"].decode()})
    assert found == ((x, y, x + w, y + h) if pixels.any() else None)


@pytest.mark.parametrize(
    "segmentation",
    [[], [[]], [[1, 2, 3]], [["a", "b"]], {"size": [3], "counts": "a"}, {"counts": "a"}, "text", 5]
    + [{"size": [4, 4], "counts": c} for c in ("\x00", "o" * 1000, [99], [-1, 2], [[1]], None)],
)
def test_segmentations_that_cannot_be_read_give_no_box(segmentation: Any) -> None:
    assert segmentation_box(segmentation) is None


def test_whole_floats_are_ids_and_crowds_are_named(tmp_path: Path) -> None:
    content = coco(tmp_path)
    for entry in (*content["images"], *content["annotations"], *content["categories"]):
        entry.update({k: float(v) for k, v in entry.items() if k.endswith("id")})
    assert boxes_of(read(tmp_path, content)) == [BOX] * 3
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    with pytest.raises(DataError, match=r"all 3 usable boxes are marked crowd \(iscrowd 1\)"):
        read(tmp_path, content)


# ------------------------------------------------------------------ YOLO


def yolo(root: Path, lines: str, yaml: str = "", split: str = "train") -> Path:
    for name in ("train", "val"):
        save_image(root / f"images/{name}/{name}.jpg", len(name), (640, 480))
        (root / f"labels/{name}").mkdir(parents=True, exist_ok=True)
        (root / f"labels/{name}/{name}.txt").write_text(lines)
    text = f"train: images/train\nval: images/val\nnames: [ant, bee]\n{yaml}"
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


WHOLE = [256, 216, 384, 264]


@pytest.mark.parametrize(
    ("lines", "yaml", "box"),
    [
        ("0 0.5 0.5 0.2 0.1", "", WHOLE),
        ("0.0 0.5 0.5 0.2 0.1", "", WHOLE),
        ("0 0.5 0.5 0.2 0.1 0.9", "", WHOLE),  # a confidence
        ("0 0.5 0.5 0.2 0.1 17", "", WHOLE),  # a track id
        ("0 0.4 0.45 0.6 0.45 0.6 0.55 0.4 0.55", "", WHOLE),  # an oriented box
        ("0 0.4 0.45 0.6 0.45 0.6 0.55 0.4 0.55 0.8", "", WHOLE),
        ("0 0.4 0.5 0.6 0.45 0.5 0.55", "", WHOLE),  # a polygon
        ("0 0.5 0.5 0.2 0.1 0.45 0.5 0.55 0.5", "kpt_shape: [2, 2]", WHOLE),
        ("0 0.5 0.5 0.2 0.1 0.45 0.5 2 0.55 0.5 1", "kpt_shape: [2, 3]", WHOLE),
        ("0 0.5 0.5 0.2 0.1 0.45 0.5 2 0.55 0.5 1 0.9", "kpt_shape: [2, 3]", WHOLE),
        ("0 0.5 0.5 0.2 0.1 0.45 0.5 2 0.9 0.9 1 0.9 4", "kpt_shape: [2, 3]", WHOLE),
    ],
)
def test_every_yolo_task_gives_its_box(
    tmp_path: Path, lines: str, yaml: str, box: list[float]
) -> None:
    found = read_annotations(yolo(tmp_path, lines, yaml))
    np.testing.assert_allclose(boxes_of(found), [box], atol=1e-6)
    assert found.images[0].labels.tolist() == [0]


@pytest.mark.parametrize(
    ("lines", "yaml", "message"),
    [
        ("0 0.5 0.5 0.2 0.1 0.45 0.5", "kpt_shape: [2, 2]", "and 8 values .*but there are 6"),
        ("0 0.5 0.5 0.2 0.1", "kpt_shape: [2, 4]", r"kpt_shape = .*must be \[points, 2 or 3\]"),
        ("0 0.5 0.5 0.2 0.1", "task: pose", "task is pose, but kpt_shape is missing"),
        (
            "0 0.5 0.5 0.2 0.1 0.45 0.5 2 0.55 0.5 1\n1 0.3 0.3 0.2 0.2 0.25 0.3 2 0.35 0.3 2",
            "",
            "seem to be poses .*train.txt line 1; add kpt_shape",
        ),
        ("1.5 0.5 0.5 0.2 0.1", "", "the first word must be a class number"),
    ],
)
def test_other_yolo_lines_are_refused(tmp_path: Path, lines: str, yaml: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_annotations(yolo(tmp_path, lines, yaml))


@pytest.mark.parametrize("names", ["[yes, no, on]", "{0: yes, 1: no, 2: on}", "[012, null, 1.0]"])
def test_yaml_names_stay_as_written(tmp_path: Path, names: str) -> None:
    file = yolo(tmp_path, "0 0.5 0.5 0.2 0.1")
    file.write_text(f"train: images/train\nnames: {names}\n")
    expected = ["012", "null", "1.0"] if "012" in names else ["yes", "no", "on"]
    assert [c.name for c in read_annotations(file).categories] == expected


def test_a_missing_list_and_another_machines_folder_are_named(tmp_path: Path) -> None:
    file = yolo(tmp_path, "0 0.5 0.5 0.2 0.1")
    file.write_text("train: train.txt\nnames: [ant]\n")
    with pytest.raises(DataError, match=r"train names the list .*train\.txt, but there is no"):
        read_annotations(file)
    (tmp_path / "train.txt").write_text("./images\\train\\train.jpg\r\n")
    assert len(read_annotations(file).images) == 1
    file.write_text("path: /content/ants\ntrain: images/train\nnames: [ant]\n")
    with pytest.warns(HyperfocalWarning, match="folder of another machine"):
        assert len(read_annotations(file).images) == 1


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    file = yolo(tmp_path, "0 0.5 0.5 0.2 0.1")
    save_image(tmp_path / "images/train/.ipynb_checkpoints/train-checkpoint.jpg")
    save_image(tmp_path / "images/train/__MACOSX/x.jpg")
    (tmp_path / "images/train/._train.jpg").write_bytes(b"not an image")
    with pytest.warns(HyperfocalWarning, match="3 images left out because .*hidden"):
        found = read_annotations(file)
    assert [record.path.name for record in found.images] == ["train.jpg"]


def test_a_label_studio_export_is_yolo(tmp_path: Path) -> None:
    save_image(tmp_path / "images/a.jpg", 0, (640, 480))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("1 0.5 0.5 0.2 0.1\n")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    (tmp_path / "notes.json").write_text('{"categories": [], "info": {}}')
    found = read_annotations(tmp_path)
    assert [c.name for c in found.categories] == ["ant", "bee"]
    np.testing.assert_allclose(boxes_of(found), [WHOLE], atol=1e-6)


def test_a_tree_without_data_yaml_has_its_splits(tmp_path: Path) -> None:
    yolo(tmp_path, "0 0.5 0.5 0.2 0.1").unlink()
    (tmp_path / "classes.txt").write_text("ant\n")
    for split in ("train", "val"):
        found = read_annotations(tmp_path, split=split)
        assert [record.path.stem for record in found.images] == [split]
    (tmp_path / "images/val").rename(tmp_path / "images/other")
    with pytest.raises(DataError, match=r"no folder images/val in it .*there is images/train"):
        read_annotations(tmp_path, split="val")


# ------------------------------------------------------------------ VOC, CSV


def test_a_voc_tree_without_the_list_of_a_split_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_image(tmp_path / f"JPEGImages/{name}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / f"Annotations/{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename><object><name>ant</name><bndbox>"
            "<xmin>11</xmin><ymin>13</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object>"
            "</annotation>"
        )
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "test.txt").write_text("b\n")
    assert len(read_annotations(tmp_path).images) == 1
    with pytest.raises(DataError, match=r"no val\.txt; there is test\.txt, train\.txt"):
        read_annotations(tmp_path, split="val")
    (lists / "val.txt").write_text("b\n")
    assert boxes_of(read_annotations(tmp_path, split="val")) == [BOX]


KERAS = "images/a.jpg,10,12,40,30,bee\nimages/a.jpg,1,2,3,4,ant\nimages/b.jpg,,,,,\n"
TENSORFLOW = (
    "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    "a.jpg,96,72,bee,10,12,40,30\na.jpg,96,72,ant,1,2,3,4\n"
)


@pytest.mark.parametrize(("text", "images"), [(KERAS, 2), (TENSORFLOW, 1)])
def test_csv_files_of_other_tools_are_read(tmp_path: Path, text: str, images: int) -> None:
    for name in ("a.jpg", "b.jpg", "images/a.jpg", "images/b.jpg"):
        save_image(tmp_path / name)
    (tmp_path / "boxes.csv").write_text(text)
    found = read_annotations(tmp_path / "boxes.csv")
    assert len(found.images) == images
    assert [c.name for c in found.categories] == ["ant", "bee"]
    assert boxes_of(found) == [BOX, [1, 2, 3, 4]]
    assert found.images[0].labels.tolist() == [1, 0]
    (tmp_path / "classes.csv").write_text("bee,0\nant,1\n")
    classes = OpenImagesFiles(classes=tmp_path / "classes.csv")
    ordered = read_annotations(tmp_path / "boxes.csv", openimages=classes)
    assert [c.name for c in ordered.categories] == ["bee", "ant"]


def test_other_columns_are_named_with_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image,label,left,top\na.jpg,ant,1,2\n")
    with pytest.raises(DataError, match=r"'image', 'label', .*TensorFlow's have filename, width"):
        read_annotations(tmp_path / "boxes.csv")
    (tmp_path / "boxes.csv").write_text("")
    with pytest.raises(DataError, match="an empty file"):
        read_annotations(tmp_path / "boxes.csv")


# ------------------------------------------------------------------ both splits


def test_images_in_both_splits_are_counted(tmp_path: Path) -> None:
    read(tmp_path, coco(tmp_path))
    images = Split(tmp_path / "a.json", tmp_path / "images")
    with pytest.warns(HyperfocalWarning, match="3 images of 3 in the validation split are in the"):
        read_splits(DataConfig(train=images, val=images))
    other = tmp_path / "other"
    content = coco(other)
    for n in (2, 3):
        save_image(other / f"images/pic_{n}.jpg", 10 + n)
    (tmp_path / "images/pic_1.jpg").rename(tmp_path / "images/copy.jpg")
    read(other, content)
    train = coco(tmp_path)
    train["images"][0]["file_name"] = "copy.jpg"
    read(tmp_path, train)
    val = Split(other / "a.json", other / "images")
    with pytest.warns(HyperfocalWarning, match=r"1 image of 3 .*pic_1\.jpg, same as .*copy\.jpg"):
        read_splits(DataConfig(train=images, val=val))


# ------------------------------------------------------------------ several files


def test_several_files_are_joined_by_the_names_of_their_categories(tmp_path: Path) -> None:
    one, two = coco(tmp_path / "a"), coco(tmp_path / "b")
    two["categories"] = [
        {"id": 3, "name": "bee"},
        {"id": 7, "name": "cat"},
        {"id": 9, "name": "ant"},
    ]
    for entry, category in zip(two["annotations"], (3, 7, 9), strict=True):
        entry["category_id"] = category
    read(tmp_path / "a", one), read(tmp_path / "b", two)
    files = [tmp_path / "a/a.json", tmp_path / "b/a.json"]
    folders = [tmp_path / "a/images", tmp_path / "b/images"]
    found = read_annotations(files, folders)
    assert [c.name for c in found.categories] == ["ant", "bee", "cat"]
    assert len({c.id for c in found.categories}) == 3
    assert [record.labels.tolist() for record in found.images] == [[0], [0], [0], [1], [2], [0]]
    assert len({record.id for record in found.images}) == 6
    assert [record.path.parent.parent.name for record in found.images] == [*"aaabbb"]
    assert boxes_of(found) == [BOX] * 6
    split = Split(files[0], folders[0], more_annotations=(files[1],), more_images=(folders[1],))
    again = read_splits(DataConfig(train=split)).train
    assert [record.path for record in again.images] == [record.path for record in found.images]
    with pytest.warns(HyperfocalWarning, match="2 categories with another id"):
        val = read_annotations(files[1], folders[1], categories=found.categories)
    assert [record.labels.tolist() for record in val.images] == [[1], [2], [0]]


def test_errors_of_several_files_name_theirs(tmp_path: Path) -> None:
    one, two = coco(tmp_path / "a"), coco(tmp_path / "b")
    two["annotations"][1]["category_id"] = 77
    read(tmp_path / "a", one)
    (tmp_path / "b/a.json").write_text(json.dumps(two))
    files = [tmp_path / "a/a.json", tmp_path / "b/a.json"]
    with pytest.raises(DataError, match=r"annotation id 2 of a\.json"):
        read_annotations(files, [tmp_path / "a/images", tmp_path / "b/images"])
    with pytest.raises(DataError, match="2 annotation files, but 1 image folders"):
        read_annotations(files, [tmp_path / "a/images"])
    yolo(tmp_path / "c", "0 0.5 0.5 0.2 0.1")
    with pytest.raises(DataError, match="in pixels and the other in fractions"):
        read_annotations([files[0], tmp_path / "c"], [tmp_path / "a/images", None])
    with pytest.raises(ConfigError, match=r"more_images .* one folder for each"):
        Split(files[0], more_annotations=(files[1],), more_images=(tmp_path, tmp_path))


# ------------------------------------------------------------------ large images


def test_the_limit_of_pixels_is_a_setting_with_one_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    read(tmp_path, coco(tmp_path))
    split = Split(tmp_path / "a.json", tmp_path / "images")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for most in (96 * 72, 96 * 72 + 1):  # Pillow would warn from half of it on
            assert len(read_splits(DataConfig(train=split, max_pixels=most)).train.images) == 3
        with pytest.raises(DataError, match=r"more than 6,000 pixels; .*--data\.max-pixels"):
            read_splits(DataConfig(train=split, max_pixels=6000))
