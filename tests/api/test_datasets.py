"""`annotations_of`: objects in memory as annotation sets."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.api.conftest import Squares

import hyperfocal
from hyperfocal.data import load_sample, read_annotations
from hyperfocal.types import DataError, HyperfocalWarning

NAMES = ["red", "orange"]


@pytest.mark.parametrize("kind", ["array", "pil", "tensor"])
def test_a_dataset_gives_its_boxes_and_images(kind: str) -> None:
    data = Squares(5, kind)
    found = hyperfocal.annotations_of(data, NAMES)
    assert [c.name for c in found.categories] == NAMES
    assert found.counts().instances == (3, 2)
    for index, record in enumerate(found.images):
        _image, target = data[index]
        sample = load_sample(record)
        assert (record.height, record.width) == (96, 96)
        np.testing.assert_array_equal(record.boxes, target["boxes"].numpy())
        torch.testing.assert_close(sample.target.boxes, target["boxes"])
        assert sample.target.labels.tolist() == [index % 2]
        pixels = Squares(5)[index][0]
        assert int((sample.image.permute(1, 2, 0).numpy() != pixels).sum()) == 0


def test_targets_are_read_once_and_images_when_needed() -> None:
    data = Squares(6)
    found = hyperfocal.annotations_of(data, NAMES)
    assert data.reads == list(range(6))
    load_sample(found.images[4])
    assert data.reads[6:] == [4]


def test_labels_that_count_from_one_need_the_background_name() -> None:
    with pytest.raises(DataError, match=r"Squares\[1\]: label 2.*begin categories with '__back"):
        hyperfocal.annotations_of(Squares(4, first_label=1), NAMES)
    found = hyperfocal.annotations_of(Squares(4, first_label=1), ["__background__", *NAMES])
    assert [c.name for c in found.categories] == NAMES
    assert [r.labels.tolist() for r in found.images] == [[0], [1], [0], [1]]


def test_val_labels_follow_train_by_name() -> None:
    train = hyperfocal.annotations_of(Squares(4), NAMES)
    val = hyperfocal.annotations_of(Squares(4), NAMES[::-1], known=train.categories)
    assert [r.labels.tolist() for r in val.images] == [[1], [0], [1], [0]]
    assert [load_sample(r).target.labels.tolist() for r in val.images] == [[1], [0], [1], [0]]


def test_random_transforms_repeat_with_the_seed_and_leave_no_trace() -> None:
    found = hyperfocal.annotations_of(Squares(1, flip=True), NAMES)
    record = found.images[0]
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    boxes = {seed: load_sample(record, seed).target.boxes for seed in range(12)}
    again = {seed: load_sample(record, seed).target.boxes for seed in range(12)}
    assert all(torch.equal(boxes[seed], again[seed]) for seed in boxes)
    assert len({tuple(b.flatten().tolist()) for b in boxes.values()}) == 2
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002


def _item(**target: Any) -> list[Any]:
    return [(np.zeros((8, 8, 3), np.uint8), target)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_item(boxes=[[0, 0, 4, 4]]), r"list\[0\]: the target needs both 'boxes' and 'labels'"),
        (_item(boxes=[[0, 0, 4]], labels=[0]), r"list\[0\]: boxes can't be used"),
        (_item(boxes=[[0, 0, 4, 4]], labels=[0.5]), r"labels can't be used \(not whole numbers"),
        (_item(boxes=[[0, 0, 4, 4]], labels=[0, 1]), "1 boxes, but 2 labels"),
        (_item(boxes=[[0, 0, 4, 4]], labels=[7]), "label 7, but the categories have labels 0 to 1"),
        ([np.zeros((8, 8, 3), np.uint8)], r"expected a pair \(image, target\), found ndarray"),
        ([(np.zeros((8, 8, 3), np.uint8), [])], "wrap_dataset_for_transforms_v2"),
        ([(np.full((3, 8, 8), 2.0), {})], r"list\[0\]: a numpy image must have shape"),
        (3, "expected a pair .annotations, images., an AnnotationSet"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named_with_its_index(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hyperfocal.annotations_of(data, NAMES)


def test_an_exception_of_the_dataset_names_the_index() -> None:
    class Broken(Squares):
        def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
            if index == 2:
                raise OSError("disk")
            return super().__getitem__(index)

    with pytest.raises(DataError, match=r"Broken\[2\]: OSError: disk"):
        hyperfocal.annotations_of(Broken(3), NAMES)


def test_an_image_that_changes_its_size_is_refused() -> None:
    class Resized(Squares):
        def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
            image, target = super().__getitem__(index)
            return (image if len(self.reads) <= 1 else image[:50]), target

    found = hyperfocal.annotations_of(Resized(1), NAMES)
    with pytest.raises(DataError, match=r"Resized\[0\]: 96x50 pixels, but 96x96 when the targets"):
        load_sample(found.images[0])


def test_boxes_pass_the_checks_of_files() -> None:
    data = [
        (np.zeros((8, 8, 3), np.uint8), {"boxes": [[0, 0, 4, 4], [4, 4, 2, 6]], "labels": [0, 0]})
    ]
    with pytest.warns(HyperfocalWarning, match="1 box inside out"):
        found = hyperfocal.annotations_of(data, NAMES)
    assert found.images[0].boxes.tolist() == [[0, 0, 4, 4]]
    assert load_sample(found.images[0]).target.boxes.tolist() == [[0, 0, 4, 4]]


def test_supervision_gives_what_its_files_give(synthetic: Path) -> None:
    import supervision as sv

    theirs = sv.DetectionDataset.from_coco(str(synthetic / "val"), str(synthetic / "val.json"))
    ours = read_annotations(synthetic / "val.json", synthetic / "val", split="val")
    found = hyperfocal.annotations_of(theirs, known=ours.categories)
    by_name = {record.path.name: record for record in found.images}
    assert len(by_name) == len(ours.images)
    for record in ours.images:
        np.testing.assert_allclose(by_name[record.path.name].boxes, record.boxes, atol=1e-3)
        assert by_name[record.path.name].labels.tolist() == record.labels.tolist()


@pytest.mark.parametrize("wrapped", [True, False])
def test_coco_detection_gives_what_its_file_gives(
    synthetic: Path, tmp_path: Path, wrapped: bool
) -> None:
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

    content = json.loads((synthetic / "val.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    data = CocoDetection(str(synthetic / "val"), str(file))
    found = hyperfocal.annotations_of(wrap_dataset_for_transforms_v2(data) if wrapped else data)
    ours = read_annotations(file, synthetic / "val", split="val")
    assert found.categories == ours.categories
    for mine, theirs in zip(ours.images, found.images, strict=True):
        np.testing.assert_array_equal(mine.boxes, theirs.boxes)
        assert mine.labels.tolist() == theirs.labels.tolist()
        assert mine.crowd.tolist() == theirs.crowd.tolist()
        assert torch.equal(load_sample(mine).image, load_sample(theirs).image)


def test_coco_detection_keeps_its_own_transforms(synthetic: Path) -> None:
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    data = CocoDetection(
        str(synthetic / "val"), str(synthetic / "val.json"), transforms=v2.RandomHorizontalFlip(1.0)
    )
    found = hyperfocal.annotations_of(wrap_dataset_for_transforms_v2(data))
    ours = read_annotations(synthetic / "val.json", synthetic / "val", split="val")
    for mine, theirs in zip(ours.images, found.images, strict=True):
        mirrored = mine.boxes.copy()
        mirrored[:, [0, 2]] = mine.width - mine.boxes[:, [2, 0]]
        np.testing.assert_allclose(mirrored, theirs.boxes, atol=1e-3)
        assert torch.equal(load_sample(mine).image.flip(2), load_sample(theirs).image)
