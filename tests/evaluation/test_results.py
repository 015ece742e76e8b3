"""COCO results files: written and read again, and every kind of damage."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperfocal.evaluation import read_results, write_results
from hyperfocal.types import AnnotationSet, Category, DataError, Detections, ImageRecord


def empty_record(image_id: int) -> ImageRecord:
    nothing = np.zeros(0)
    return ImageRecord(
        id=image_id,
        path=Path(f"{image_id}.jpg"),
        height=100,
        width=100,
        boxes=np.zeros((0, 4)),
        labels=nothing.astype(np.int64),
        crowd=nothing.astype(bool),
        area=nothing,
    )


ANNOTATIONS = AnnotationSet(
    Path("val.json"),
    (Category(7, "cat"), Category(90, "dog")),
    (empty_record(139), empty_record(285)),
)
GOOD = {"image_id": 139, "category_id": 90, "bbox": [1.5, 2, 3, 4], "score": 0.25}


def results(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_boxes_become_corners_and_category_ids_labels(tmp_path):
    other = GOOD | {"category_id": 7, "score": 1}
    found = read_results(results(tmp_path, [GOOD, other, GOOD | {"image_id": 285}]), ANNOTATIONS)
    assert set(found) == {139, 285}
    assert found[139].boxes.tolist() == [[1.5, 2, 4.5, 6], [1.5, 2, 4.5, 6]]
    assert found[139].scores.tolist() == [0.25, 1]
    assert found[139].labels.tolist() == [1, 0]


def test_other_fields_and_an_empty_list_are_fine(tmp_path):
    more = GOOD | {"segmentation": {}, "id": 3}
    assert len(read_results(results(tmp_path, [more]), ANNOTATIONS)[139]) == 1
    assert read_results(results(tmp_path, []), ANNOTATIONS) == {}


def test_written_results_are_read_back(tmp_path):
    generator = torch.Generator().manual_seed(0)
    corner = 50 * torch.rand(20, 2, generator=generator)
    boxes = torch.cat([corner, corner + 40 * torch.rand(20, 2, generator=generator)], dim=1)
    scores = torch.rand(20, generator=generator)
    labels = torch.randint(2, (20,), generator=generator)
    path = tmp_path / "out.json"
    write_results(path, {285: Detections(boxes, scores, labels)}, ANNOTATIONS)
    back = read_results(path, ANNOTATIONS)[285]
    torch.testing.assert_close(back.boxes.float(), boxes, atol=2e-4, rtol=0)
    assert torch.equal(back.scores.float(), scores)
    assert torch.equal(back.labels, labels)
    assert json.loads(path.read_text())[0].keys() == GOOD.keys()


def test_a_nan_is_not_written(tmp_path):
    bad = Detections(torch.zeros(1, 4), torch.tensor([float("nan")]), torch.zeros(1).long())
    with pytest.raises(DataError, match="image 139"):
        write_results(tmp_path / "out.json", {139: bad}, ANNOTATIONS)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 140}, r"image_id 140 is not in val\.json"),
        ({"image_id": "140"}, "image_id '140' is not"),
        ({"image_id": [139]}, r"image_id \[139\] is not"),
        ({"image_id": True}, "image_id True is not"),
        ({"category_id": 1}, r"category_id 1 is not in val\.json"),
        ({"bbox": [1, 2, 3]}, "bbox must be 4 finite numbers"),
        ({"bbox": None}, "bbox must be 4 finite numbers"),
        ({"bbox": [1, 2, "3", 4]}, "bbox must be 4 finite numbers"),
        ({"bbox": [1, 2, float("inf"), 4]}, "bbox must be 4 finite numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "bbox must be 4 finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, r"bbox \[1, 2, -3, 4\] has a negative width or height"),
        ({"score": float("nan")}, "score must be a finite number, found nan"),
        ({"score": "high"}, "score must be a finite number, found 'high'"),
        ({"score": None}, "score must be a finite number, found None"),
        ({"score": True}, "score must be a finite number, found True"),
    ],
)
def test_a_bad_entry_is_named_with_its_file_and_index(tmp_path, change, message):
    path = results(tmp_path, [GOOD, GOOD | change])
    with pytest.raises(DataError, match=rf"results\.json: entry 1: {message}"):
        read_results(path, ANNOTATIONS)


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_field_is_named(tmp_path, field):
    entry = {k: v for k, v in GOOD.items() if k != field}
    with pytest.raises(DataError, match=rf"entry 0: no '{field}'"):
        read_results(results(tmp_path, [entry]), ANNOTATIONS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("", "not readable as JSON"),
        ('"text"', "expected a list"),
        ({"a": 1}, "expected a list"),
        ({"images": [], "annotations": []}, "this is an annotation file"),
        ([5], "entry 0: expected an object"),
    ],
)
def test_a_file_that_is_no_results_file_says_so(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_results(results(tmp_path, content), ANNOTATIONS)


def test_a_missing_file_and_a_binary_one(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.json: no such file"):
        read_results(tmp_path / "nothing.json", ANNOTATIONS)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="not readable as JSON"):
        read_results(binary, ANNOTATIONS)
    with pytest.raises(DataError, match="not readable as JSON"):
        read_results(tmp_path, ANNOTATIONS)
