"""The train and val splits in a data folder are found."""

from __future__ import annotations

import shutil

import pytest

from hyperfocal.data import Split
from hyperfocal.inspection import find_splits
from hyperfocal.types import DataError


def test_json_files_beside_image_folders(two):
    two.write()
    root = two.root
    assert find_splits(root) == {
        "train": Split(root / "train.json", root / "train"),
        "val": Split(root / "val.json", root / "val"),
    }


def test_cocos_own_layout(two):
    two.write()
    root = two.root
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"{split}.json").rename(root / "annotations" / f"instances_{split}2017.json")
        (root / "annotations" / f"captions_{split}2017.json").write_text("{}")
        (root / split).rename(root / f"{split}2017")
    assert find_splits(root) == {
        "train": Split(root / "annotations/instances_train2017.json", root / "train2017"),
        "val": Split(root / "annotations/instances_val2017.json", root / "val2017"),
    }


def test_a_folder_a_split(two):
    two.write()
    root = two.root
    (root / "val").rename(root / "valid")
    for split, folder in (("train", "train"), ("val", "valid")):
        (root / f"{split}.json").rename(root / folder / "_annotations.coco.json")
    found = find_splits(root)
    assert found["train"] == Split(root / "train/_annotations.coco.json", root / "train")
    assert found["val"] == Split(root / "valid/_annotations.coco.json", root / "valid")


def test_yolo_with_and_without_val(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    file = tmp_path / "data.yaml"
    file.write_text("names: [a]\ntrain: train\nval: val\n")
    assert find_splits(tmp_path) == {"train": Split(file), "val": Split(file)}
    file.write_text("names: [a]\ntrain: train\n")
    assert find_splits(tmp_path) == {"train": Split(file)}


def test_a_voc_tree(tmp_path):
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "1.xml").write_text("<annotation/>")
    assert find_splits(tmp_path) == {"train": Split(tmp_path)}
    (lists / "val.txt").write_text("1\n")
    assert set(find_splits(tmp_path)) == {"train", "val"}


def test_one_file(two):
    two.write()
    (two.root / "val.json").unlink()
    shutil.rmtree(two.root / "val")
    (two.root / "train.json").rename(two.root / "labels.json")
    wanted = {"train": Split(two.root / "labels.json", two.root / "train")}
    assert find_splits(two.root) == wanted
    assert find_splits(two.root / "labels.json") == wanted


def test_nothing_or_too_much(two, tmp_path):
    with pytest.raises(DataError, match="absent: no such file or folder"):
        find_splits(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"give them with --data\.train\.annotations"):
        find_splits(empty)
    two.write()
    (two.root / "train.json").rename(two.root / "train_a.json")
    shutil.copy(two.root / "train_a.json", two.root / "train_b.json")
    with pytest.raises(DataError, match=r"several files for train \(train_a.json, train_b.json\)"):
        find_splits(two.root)


def test_json_files_of_other_tools_beside_yolo_labels(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "labels/1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("ant\n")
    (tmp_path / "notes.json").write_text('{"categories": [], "info": {}}')
    assert find_splits(tmp_path) == {"train": Split(tmp_path)}


def test_hidden_json_files_are_passed_over(tmp_path):
    text = '{"images": [], "annotations": [], "categories": []}'
    for name in ("train.json", "._train.json", ".train.json"):
        (tmp_path / name).write_text(text)
    assert find_splits(tmp_path)["train"].annotations == tmp_path / "train.json"
