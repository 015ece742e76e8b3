"""Every kind of fault is found, named by file and id; data without faults has no findings."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from hyperfocal.inspection import examine, find_splits
from hyperfocal.recipes import load_recipe
from hyperfocal.types import ConfigError


def test_sound_data(two):
    found = two.examine(decode="full")
    # Two categories of 20 and 10 images: the second is rare by LVIS's bounds.
    assert two.kinds(found) == {"few_training_images"}
    assert not found.has_errors
    assert found.train is not None
    assert len(found.train.images) == 20
    assert found.val is not None
    assert len(found.val.images) == 6


def test_no_val(two):
    del two.data["val"]
    assert two.only(two.examine(), "no_val").severity == "warning"


# --------------------------------------------------------------------------- what checks.py finds


def test_doctor_continues_after_errors_that_stop_training(two):
    train = two.data["train"]
    train["images"].append(dict(train["images"][0]))
    train["categories"].append({"id": 2, "name": "bee"})
    bad = two.annotate("train", image_id=3, category_id=77, bbox=[1, 1, 50, 50])
    (two.root / "train" / "5.png").unlink()
    half = (two.root / "train" / "6.png").read_bytes()
    (two.root / "train" / "6.png").write_bytes(half[: len(half) // 2])
    found = two.examine()
    assert found.has_errors
    assert two.only(found, "repeated_image_ids").cases[0].image_id == 1
    assert "'bee'" in str(two.only(found, "repeated_category_ids").cases[0])
    unknown = two.only(found, "unknown_category")
    assert "77" in unknown.text
    assert unknown.cases[0].annotation == f"annotation id {bad['id']}"
    files = two.only(found, "file")
    assert (files.count, files.severity) == (2, "error")
    assert [case.image_id for case in files.cases] == [5, 6]
    assert found.train is not None
    assert len(found.train.images) == 18


def test_skipped_and_corrected_boxes_are_warnings_that_name_them(two):
    for box in ([5, 5, -4, 10], [5, 5, 0, 10], [300, 5, 4, 4], [150, 100, 80, 20], None):
        two.annotate("train", image_id=4, bbox=box)
    two.annotate("train", image_id=999, bbox=[1, 1, 9, 9])
    two.data["val"]["images"][0]["width"] = 201
    found = two.examine()
    by_text = {f.text: f for f in found.findings if f.kind == "checks"}
    for words in (
        "1 box inside out",
        "1 box without area",
        "1 box outside the image",
        "1 box partly outside",
        "1 box missing or not finite",
        "1 annotation of unknown images",
        "1 image with a wrong width",
    ):
        (text,) = [text for text in by_text if text.startswith(words)]
        assert by_text[text].severity == "warning"
    (inverted,) = [f for text, f in by_text.items() if "inside out" in text]
    assert (inverted.cases[0].image_id, inverted.cases[0].box) == (4, (5, 5, 1, 15))
    assert str(two.root / "train" / "4.png") in str(inverted.cases[0])


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_that_cannot_be_parsed(two, split: str):
    experiment = two.experiment()
    (two.root / f"{split}.json").write_text('{"images": [')
    found = examine(experiment)
    assert two.only(found, "unreadable").split == split
    assert (found.train is None) == (split == "train")


def test_all_bad_entries_are_reported_not_ten(two):
    for image in two.data["train"]["images"][:15]:
        image["file_name"] = "../" + image["file_name"]
    found = two.examine()
    assert sum(f.kind == "unreadable" for f in found.findings) == 15


def test_bad_images_that_training_skips_are_no_error(two):
    experiment = two.experiment()
    (two.root / "train" / "5.png").unlink()
    data = dataclasses.replace(experiment.data, bad_images="skip")
    found = examine(dataclasses.replace(experiment, data=data))
    assert two.only(found, "file").severity == "warning"
    assert not found.has_errors


# --------------------------------------------------------------------------- ids


@pytest.mark.parametrize("shift", [1, -1])
def test_category_ids_off_by_one(two, shift: int):
    for row in two.data["train"]["annotations"]:
        row["category_id"] += shift
    finding = two.only(two.examine(), "category_ids_off_by_one")
    assert finding.severity == "error"
    assert f"one too {'high' if shift == 1 else 'low'}" in finding.text


def test_image_ids_off_by_one(two):
    for row in two.data["train"]["annotations"]:
        row["image_id"] -= 1
    assert two.only(two.examine(), "image_ids_off_by_one").severity == "error"


def test_an_unknown_id_is_not_off_by_one(two):
    two.annotate("train", image_id=1, category_id=0, bbox=[1, 1, 50, 50])
    two.annotate("train", image_id=1, category_id=3, bbox=[1, 1, 50, 50])
    assert "category_ids_off_by_one" not in two.kinds(two.examine())


# --------------------------------------------------------------------------- categories


def test_categories_that_cannot_be_learnt_or_measured(two):
    for name in ("train", "val"):
        two.data[name]["categories"] += [
            {"id": 3, "name": "bee"},
            {"id": 4, "name": "fly"},
            {"id": 5, "name": "Fly_"},
        ]
    two.annotate("train", image_id=1, category_id=3, bbox=[100, 90, 40, 40])
    two.annotate("val", image_id=101, category_id=4, bbox=[100, 90, 40, 40])
    found = two.examine()
    assert "(bee)" in two.only(found, "no_validation_boxes").text
    assert "fly, Fly_" in two.only(found, "no_training_boxes").text
    assert "(fly)" in two.only(found, "only_in_validation").text
    assert "bee: 1" in two.only(found, "few_training_images").text
    assert "'fly' / 'Fly_'" in two.only(found, "similar_names").text


def test_images_without_boxes_are_a_note(two):
    annotations = two.data["train"]["annotations"]
    annotations[:] = [row for row in annotations if row["image_id"] != 7]
    finding = two.only(two.examine(), "images_without_boxes")
    assert (finding.severity, finding.cases[0].image_id) == ("note", 7)


# --------------------------------------------------------------------------- copies


def test_copies_between_the_splits(two):
    shutil.copy(two.root / "train" / "3.png", two.root / "val" / "103.png")
    with Image.open(two.root / "train" / "8.png") as image:
        image.resize((150, 120)).resize((200, 160)).save(two.root / "val" / "106.png")
    found = two.examine(decode="full")
    same = two.only(found, "identical_in_both")
    assert (same.severity, same.count, same.cases[0].image_id) == ("error", 1, 103)
    assert same.cases[0].other == str(two.root / "train" / "3.png")
    alike = two.only(found, "alike_in_both")
    assert (alike.count, alike.cases[0].image_id) == (1, 106)
    assert "8.png" in str(alike.cases[0])
    # The same without decoding: equal bytes are still seen.
    assert {"identical_in_both"} == two.kinds(two.examine()) - {"few_training_images"}


def test_a_val_image_has_one_partner_however_many_are_like_it(two):
    """A camera that stands still: every pair of frames is alike."""
    with Image.open(two.root / "train" / "8.png") as image:
        still = np.asarray(image.convert("RGB")).astype(int)
    rng = np.random.default_rng(0)
    for file in [*(two.root / "train").iterdir(), *(two.root / "val").iterdir()]:
        noise = rng.integers(-3, 4, still.shape)
        Image.fromarray((still + noise).clip(0, 255).astype(np.uint8)).save(file)
    shutil.copy(two.root / "train" / "3.png", two.root / "val" / "103.png")
    found = two.examine(decode="full")
    alike = two.only(found, "alike_in_both")
    assert alike.count == len(alike.cases) == 6  # 103 too: of the others than its own bytes
    assert "3.png" not in [
        case.other.rpartition("/")[2] for case in alike.cases if case.image_id == 103
    ]


def test_one_folder_for_both_splits(two):
    folder = two.root / "images"
    folder.mkdir()
    for split in ("train", "val"):
        for file in (two.root / split).iterdir():
            file.rename(folder / file.name)
    two.data["val"]["images"][0]["file_name"] = "3.png"
    found = two.examine()
    assert two.only(found, "identical_in_both").cases[0].image_id == 101


def test_plain_images_are_not_reported_as_copies(two):
    Image.new("RGB", (200, 160), (200, 200, 200)).save(two.root / "train" / "3.png")
    Image.new("RGB", (200, 160), (90, 90, 90)).save(two.root / "val" / "103.png")
    assert "alike_in_both" not in two.kinds(two.examine(decode="full"))


def test_hidden_damage_is_found_by_decoding(two):
    file = two.root / "train" / "9.png"
    data = bytearray(file.read_bytes())
    middle = data.index(b"IDAT") + 40
    data[middle : middle + 30] = bytes(30)
    file.write_bytes(bytes(data))
    assert "damaged" not in two.kinds(two.examine())
    finding = two.only(two.examine(decode="full"), "damaged")
    assert (finding.severity, finding.cases[0].image_id) == ("error", 9)


def test_decoding_needs_open_files(two):
    experiment = two.experiment()
    data = dataclasses.replace(experiment.data, check="none")
    with pytest.raises(ConfigError, match="--decode needs them"):
        examine(dataclasses.replace(experiment, data=data), "sample")
    for file in (two.root / "train").iterdir():
        file.unlink()
    found = examine(dataclasses.replace(experiment, data=data), "none")
    assert not found.has_errors


# --------------------------------------------------------------------------- other formats


def yolo(root, lines):
    """20 images with these label lines each, two classes."""
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for n in range(20):
            image = Image.new("RGB", (100, 80), (n, 0, 0 if split == "val" else 99))
            image.save(root / "images" / split / f"{n}.png")
            (root / "labels" / split / f"{n}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("names: [cat, ant]\ntrain: images/train\nval: images/val\n")
    recipe = load_recipe("demo")
    data = dataclasses.replace(recipe.data, **find_splits(root))
    return examine(dataclasses.replace(recipe, data=data))


def kinds(found):
    return {(finding.kind, finding.split) for finding in found.findings}


def test_sound_yolo(tmp_path):
    assert kinds(yolo(tmp_path, ["0 0.5 0.5 0.4 0.4", "1 0.3 0.3 0.5 0.5"])) == set()


def test_yolo_with_corners(tmp_path):
    found = yolo(tmp_path, ["0 0.5 0.5 0.9 0.9", "1 0.2 0.3 0.9 0.8"])
    assert {("box_order", "train"), ("box_order", "val")} <= kinds(found)


def test_yolo_with_classes_from_1(tmp_path):
    found = yolo(tmp_path, ["1 0.5 0.5 0.4 0.4", "2 0.3 0.3 0.5 0.5"])
    assert ("category_ids_off_by_one", "train") in kinds(found)


def test_voc_with_difficult_objects(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "JPEGImages").mkdir()
    for n in range(3):
        Image.new("RGB", (50, 40), (n * 50, 0, 0)).save(tmp_path / "JPEGImages" / f"{n}.png")
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>"
        (tmp_path / "Annotations" / f"{n}.xml").write_text(
            f"<a><filename>{n}.png</filename><object><name>cat</name>{box}</object>"
            f"<object><name>cat</name><difficult>1</difficult>{box}</object></a>"
        )
    recipe = load_recipe("demo")
    data = dataclasses.replace(recipe.data, **find_splits(tmp_path))
    found = examine(dataclasses.replace(recipe, data=data))
    (note,) = [finding for finding in found.findings if "difficult" in finding.text]
    assert (note.severity, note.count) == ("note", 3)
    # A difficult object may lie on another: it isn't trained on.
    assert ("duplicate_boxes", "train") not in kinds(found)
