from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hyperfocal.data import read_annotations
from hyperfocal.types import DataError


def test_images_are_looked_for_where_the_format_keeps_them(coco):
    # In ``images`` beside the file, and in the file's own folder.
    coco.write()
    assert read_annotations(coco.file).images[0].path == coco.images / "1.jpg"
    inside = coco.file.rename(coco.images / "train.json")
    assert read_annotations(inside).images[0].path == coco.images / "1.jpg"
    assert len(read_annotations(coco.images).images) == 3  # a folder with one JSON file


def test_no_image_is_needed_to_read_coco_without_checks(coco):
    coco.write()
    for file in coco.images.iterdir():
        file.unlink()
    found = read_annotations(coco.file, check="none")
    np.testing.assert_array_equal(found.images[0].boxes[0], [10, 20, 40, 60])


def test_paths_that_do_not_exist(tmp_path, coco):
    coco.write()
    with pytest.raises(DataError, match=r"no such file or folder; check --data\.val\.annotations"):
        read_annotations(tmp_path / "none.json", split="val")
    with pytest.raises(
        DataError, match=r"the image folder does not exist; .*--data\.train\.images"
    ):
        read_annotations(coco.file, tmp_path / "none")
    with pytest.raises(DataError, match="the image folder is not a folder"):
        read_annotations(coco.file, coco.file)


def test_folders_that_say_nothing_or_too_much(coco, tmp_path):
    with pytest.raises(DataError, match="no annotations in it; name a COCO"):
        read_annotations(coco.images)
    coco.write()
    (coco.file.parent / "a.xml").write_text("<annotation/>")
    with pytest.raises(DataError, match=r"several formats in it \(VOC, COCO\)"):
        read_annotations(coco.file.parent)


@pytest.mark.parametrize("name", ["a.xml", "a.txt"])
def test_one_images_annotations_are_not_a_dataset(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="one image's annotations; give their folder"):
        read_annotations(tmp_path / name)


def test_three_formats_of_one_dataset_agree(coco, tmp_path):
    """The same boxes as COCO, YOLO and VOC give the same records."""
    train = read_annotations(coco.write(), coco.images)
    yolo, voc = tmp_path / "yolo", tmp_path / "voc"
    for folder in (yolo / "images", yolo / "labels", voc):
        folder.mkdir(parents=True)
    for record in train.images:
        stem = record.path.stem
        lines, things = [], []
        for box, label, crowd in zip(record.boxes, record.labels, record.crowd, strict=True):
            if crowd:
                continue
            x1, y1, x2, y2 = box
            center = [(x1 + x2) / 200, (y1 + y2) / 160, (x2 - x1) / 100, (y2 - y1) / 80]
            lines.append(" ".join(map(str, [label, *center])))
            corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
            inside = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
            name = train.categories[label].name
            things.append(f"<object><name>{name}</name><bndbox>{inside}</bndbox></object>")
        (yolo / "labels" / f"{stem}.txt").write_text("\n".join(lines))
        (voc / f"{stem}.xml").write_text(f"<annotation>{''.join(things)}</annotation>")
        for folder in (yolo / "images", voc):
            Image.open(record.path).save(folder / f"{stem}.jpg")
    (yolo / "data.yaml").write_text("names: [ant, cat]\ntrain: images\n")
    for other in (read_annotations(yolo), read_annotations(voc)):
        assert [c.name for c in other.categories] == [c.name for c in train.categories]
        for record, expected in zip(other.images, train.images, strict=True):
            real = ~expected.crowd
            np.testing.assert_allclose(record.boxes, expected.boxes[real], atol=1e-9)
            np.testing.assert_array_equal(record.labels, expected.labels[real])
            assert (record.height, record.width) == (80, 100)
