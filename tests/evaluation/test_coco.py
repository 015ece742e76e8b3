"""The evaluator against pycocotools, and metrics that pycocotools doesn't have."""

import contextlib
import io
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hyperfocal.evaluation import CocoEvaluator, FrequencyGroups, coco
from hyperfocal.types import (
    AnnotationSet,
    Category,
    CategoryCounts,
    ConfigError,
    DataError,
    Detections,
    ImageRecord,
)

TWELVE = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def record(image_id, boxes=(), labels=(), crowd=None, area=None) -> ImageRecord:
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    crowd = np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool)
    box_area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return ImageRecord(
        id=image_id,
        path=Path(f"{image_id}.jpg"),
        height=640,
        width=640,
        boxes=boxes,
        labels=np.asarray(labels, dtype=np.int64),
        crowd=crowd,
        area=box_area if area is None else np.asarray(area, dtype=np.float64),
    )


def annotation_set(*images: ImageRecord, category_ids=(1, 2, 3)) -> AnnotationSet:
    categories = tuple(Category(i, f"category {i}") for i in category_ids)
    return AnnotationSet(Path("val.json"), categories, images)


def detections(boxes=(), scores=(), labels=()) -> Detections:
    return Detections(
        torch.as_tensor(np.asarray(boxes, dtype=np.float64).reshape(-1, 4)),
        torch.as_tensor(np.asarray(scores, dtype=np.float64)),
        torch.as_tensor(np.asarray(labels, dtype=np.int64)),
    )


def evaluate(annotations, found: dict[int, Detections], **options) -> CocoEvaluator:
    evaluator = CocoEvaluator(annotations, **options)
    evaluator.update(list(found.values()), list(found))
    return evaluator


def referee(annotations: AnnotationSet, found: dict[int, Detections]) -> COCOeval:
    """Pycocotools on the same ground truth and detections."""
    ids = [c.id for c in annotations.categories]
    gt, dt = COCO(), COCO()
    images = [{"id": r.id, "height": r.height, "width": r.width} for r in annotations.images]
    categories = [{"id": i, "name": str(i)} for i in ids]
    gt_rows, dt_rows = [], []
    for r in annotations.images:
        for (x1, y1, x2, y2), label, crowd, area in zip(
            r.boxes.tolist(), r.labels, r.crowd, r.area.tolist(), strict=True
        ):
            gt_rows.append(
                {
                    "id": len(gt_rows) + 1,
                    "image_id": r.id,
                    "category_id": ids[label],
                    "bbox": [x1, y1, round(x2 - x1, 9), round(y2 - y1, 9)],
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    for image_id, d in found.items():
        for (x1, y1, x2, y2), score, label in zip(
            d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True
        ):
            w, h = round(x2 - x1, 9), round(y2 - y1, 9)
            dt_rows.append(
                {
                    "id": len(dt_rows) + 1,
                    "image_id": image_id,
                    "category_id": ids[label],
                    "bbox": [x1, y1, w, h],
                    "area": w * h,
                    "score": score,
                    "iscrowd": 0,
                }
            )
    gt.dataset = {"images": images, "categories": categories, "annotations": gt_rows}
    dt.dataset = {"images": images, "categories": categories, "annotations": dt_rows}
    with contextlib.redirect_stdout(io.StringIO()):
        gt.createIndex()
        dt.createIndex()
        evaluation = COCOeval(gt, dt, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equals_referee(annotations, found) -> None:
    ours, theirs = evaluate(annotations, found), referee(annotations, found)
    metrics = ours.compute()
    for name, value in zip(TWELVE, theirs.stats.tolist(), strict=True):
        if value == -1:
            assert math.isnan(metrics[name]), name
        else:
            assert metrics[name] == pytest.approx(value, abs=1e-6), name
    # pycocotools orders categories by id.
    order = sorted(range(len(annotations.categories)), key=lambda k: annotations.categories[k].id)
    rows = ours.per_category()
    for column, label in enumerate(order):
        precision = theirs.eval["precision"][:, :, column, 0, 2]
        if (precision == -1).all():
            assert math.isnan(rows[label].AP)
        else:
            assert pytest.approx(precision.mean(), abs=1e-6) == rows[label].AP
            assert pytest.approx(precision[0].mean(), abs=1e-6) == rows[label].AP50


# --------------------------------------------------------------------------- equal to pycocotools


def random_case(seed: int, images=12, k=5, max_gt=6, max_dt=9, decimals=1):
    """Ground truth of all sizes with crowds, and detections near it, elsewhere, and tied."""
    rng = np.random.default_rng(seed)
    category_ids = rng.choice(np.arange(1, 91), k, replace=False).tolist()
    records, found = [], {}
    for image_id in rng.choice(10_000, images, replace=False).tolist():
        n = int(rng.integers(0, max_gt + 1))
        corner = rng.uniform(0, 400, (n, 2))
        side = np.exp(rng.uniform(np.log(2), np.log(240), (n, 2)))
        boxes = np.concatenate([corner, corner + side], axis=1).round(decimals)
        labels = rng.integers(0, k, n)
        mask_share = rng.uniform(0.3, 1.0, n)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * mask_share
        records.append(record(image_id, boxes, labels, rng.random(n) < 0.2, area))
        m = int(rng.integers(0, max_dt + 1))
        near = boxes[rng.integers(0, n, m)] if n else rng.uniform(0, 300, (m, 4))
        shift = rng.normal(0, rng.choice([0, 1, 8, 60], (m, 1)), (m, 4))
        dt = near + shift
        dt = np.concatenate([dt[:, :2], np.maximum(dt[:, 2:], dt[:, :2])], axis=1).round(decimals)
        # Few different scores: many ties.
        scores = rng.integers(0, 6, m) / 5
        found[image_id] = detections(dt, scores, rng.integers(0, k, m))
    return annotation_set(*records, category_ids=category_ids), found


@pytest.mark.parametrize("seed", range(40))
def test_random_cases_equal_pycocotools(seed):
    assert_equals_referee(*random_case(seed, decimals=seed % 4))


@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_categories_change_no_bit(monkeypatch, seed):
    annotations, found = random_case(seed, decimals=2)
    whole = evaluate(annotations, found)
    want, rows = whole.compute(), whole.per_category()
    for block in (1, 2):
        monkeypatch.setattr(coco, "BLOCK", block)
        again = evaluate(annotations, found)
        np.testing.assert_array_equal(list(again.compute().values()), list(want.values()))
        assert repr(again.per_category()) == repr(rows)  # nan equals nan


boxes_on_a_grid = st.tuples(
    st.integers(0, 20), st.integers(0, 20), st.integers(0, 40), st.integers(0, 40)
).map(lambda b: (b[0] * 4, b[1] * 4, (b[0] + b[2]) * 4, (b[1] + b[3]) * 4))
gt_entries = st.tuples(boxes_on_a_grid, st.integers(0, 2), st.booleans())
dt_entries = st.tuples(boxes_on_a_grid, st.integers(0, 2), st.sampled_from([0.1, 0.5, 0.9]))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(gt_entries, max_size=6), st.lists(dt_entries, max_size=8)),
        min_size=1,
        max_size=4,
    ),
    st.permutations([7, 3, 90]),
)
def test_adversarial_cases_equal_pycocotools(images, category_ids):
    """Boxes on a grid: IoUs on thresholds, areas on bounds, empty boxes, equal scores, crowds."""
    records, found = [], {}
    for image_id, (gt, dt) in enumerate(images):
        columns = ([e[i] for e in gt] for i in range(3))
        records.append(record(image_id, *columns))
        found[image_id] = detections([e[0] for e in dt], [e[2] for e in dt], [e[1] for e in dt])
    annotations = annotation_set(*records, category_ids=category_ids)
    # pycocotools can't take a set without any detection at all; ours is tested below.
    if any(len(d) for d in found.values()):
        assert_equals_referee(annotations, found)


def test_more_than_a_hundred_detections_are_cut_per_image_and_category():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 500, (130, 2))
    boxes = np.concatenate([corner, corner + 40], axis=1).round(1)
    labels = np.repeat([0, 1], [125, 5])
    annotations = annotation_set(record(1, boxes, labels))
    found = {1: detections(boxes, rng.permutation(130) / 130, labels)}
    assert_equals_referee(annotations, found)
    rows = evaluate(annotations, found).per_category()
    # 100 of 125 found: recall points 0, .01, ... .80 have precision 1.
    assert pytest.approx(81 / 101) == rows[0].AP
    assert pytest.approx(1) == rows[1].AP
    rows = evaluate(annotations, found, max_detections=125).per_category()
    assert pytest.approx(1) == rows[0].AP


def test_widths_survive_the_way_through_corners():
    """0.1 + 0.2 - 0.1 is not 0.2 in floats: the IoU of exactly one half must stay one half."""
    x, y, w, h = 0.1, 100.3, 30.2, 10.6
    gt = record(1, [[x, y, x + w, y + h]], [0])
    annotations = annotation_set(gt)
    half = {1: detections([[x, y, x + w / 2, y + h]], [0.9], [0])}
    assert_equals_referee(annotations, half)


# --------------------------------------------------------------------------- worked out by hand

ONE = record(5, [[0, 0, 50, 50]], [0])


def test_a_perfect_detector_scores_one():
    annotations = annotation_set(ONE, record(9, [[10, 10, 20, 20], [0, 0, 300, 300]], [1, 2]))
    found = {
        r.id: detections(r.boxes, np.ones(len(r.labels)), r.labels) for r in annotations.images
    }
    metrics = evaluate(annotations, found).compute()
    assert list(metrics) == TWELVE
    assert all(value == pytest.approx(1) for value in metrics.values())


def test_one_box_with_an_iou_of_0_8_is_found_at_seven_of_ten_thresholds():
    metrics = evaluate(
        annotation_set(ONE), {5: detections([[0, 0, 50, 40.5]], [0.3], [0])}
    ).compute()
    assert metrics["AP"] == pytest.approx(0.7)
    assert metrics["AP50"] == pytest.approx(1)
    assert metrics["AP75"] == pytest.approx(1)
    assert metrics["APm"] == pytest.approx(0.7)
    assert math.isnan(metrics["APs"])
    assert math.isnan(metrics["ARl"])


def test_a_better_scored_false_positive_halves_ap():
    found = {5: detections([[200, 200, 260, 260], [0, 0, 50, 50]], [0.9, 0.8], [0, 0])}
    assert evaluate(annotation_set(ONE), found).compute()["AP"] == pytest.approx(0.5)


def test_detections_inside_a_crowd_are_no_mistakes():
    crowd = record(5, [[0, 0, 50, 50], [100, 100, 400, 400]], [0, 0], crowd=[False, True])
    in_crowd = [[120, 120, 160, 160], [200, 200, 260, 280]]
    found = {5: detections([*in_crowd, [0, 0, 50, 50]], [0.9, 0.8, 0.7], [0, 0, 0])}
    evaluator = evaluate(annotation_set(crowd), found)
    assert evaluator.compute()["AP"] == pytest.approx(1)
    assert evaluator.per_category()[0].gt == 1


def test_no_detections_is_zero_and_no_ground_truth_is_nan():
    evaluator = CocoEvaluator(annotation_set(ONE))
    metrics = evaluator.compute()
    assert metrics["AP"] == 0
    assert metrics["AR100"] == 0
    assert math.isnan(metrics["APl"])
    rows = evaluator.per_category()
    assert rows[0].AP == 0
    assert math.isnan(rows[1].AP)

    empty = evaluate(annotation_set(record(5)), {5: detections([[0, 0, 9, 9]], [0.9], [1])})
    assert all(math.isnan(value) for value in empty.compute().values())


@pytest.mark.parametrize("annotations", [annotation_set(), annotation_set(category_ids=())])
def test_an_empty_data_set_has_no_numbers(annotations):
    evaluator = CocoEvaluator(annotations)
    assert all(math.isnan(value) for value in evaluator.compute().values())
    assert len(evaluator.per_category()) == len(annotations.categories)


def test_images_that_never_come_count_as_missed():
    both = annotation_set(ONE, record(6, [[0, 0, 50, 50]], [0]))
    found = {5: detections([[0, 0, 50, 50]], [0.9], [0])}
    assert evaluate(both, found).compute()["AR1"] == pytest.approx(0.5)


# --------------------------------------------------------------------------- frequency groups


def grouped_case():
    """Categories a..d with AP 1, 0, 1 and absent."""
    annotations = annotation_set(
        record(1, [[0, 0, 50, 50], [60, 60, 99, 99], [100, 0, 150, 80]], [0, 1, 2]),
        category_ids=(1, 2, 3, 4),
    )
    return annotations, {1: detections([[0, 0, 50, 50], [100, 0, 150, 80]], [0.9, 0.9], [0, 2])}


def counts(*images: int) -> CategoryCounts:
    return CategoryCounts(images=images, instances=tuple(2 * n for n in images), num_images=500)


def test_groups_average_the_categories_with_ground_truth():
    annotations, found = grouped_case()
    evaluator = evaluate(annotations, found, counts=counts(3, 9, 50, 200))
    metrics = evaluator.compute()
    assert metrics["APr"] == pytest.approx(0.5)
    assert metrics["AP50r"] == pytest.approx(0.5)
    assert metrics["APc"] == pytest.approx(1)
    assert math.isnan(metrics["APf"])  # its only category has no ground truth here
    rows = evaluator.per_category()
    assert [row.group for row in rows] == ["r", "r", "c", "f"]
    assert [row.train_images for row in rows] == [3, 9, 50, 200]


def test_a_category_that_training_never_saw_is_in_no_group():
    annotations, found = grouped_case()
    evaluator = evaluate(annotations, found, counts=counts(3, 0, 50, 200))
    assert evaluator.compute()["APr"] == pytest.approx(1)
    assert evaluator.compute()["AP"] == pytest.approx(2 / 3)
    assert evaluator.per_category()[1].group is None


def test_groups_of_ones_own():
    annotations, found = grouped_case()
    groups = FrequencyGroups(names=("tail", "head"), bounds=(20,))
    metrics = evaluate(annotations, found, counts=counts(3, 9, 50, 200), groups=groups).compute()
    assert metrics["APtail"] == pytest.approx(0.5)
    assert metrics["APhead"] == pytest.approx(1)
    assert "APr" not in metrics


def test_the_groups_and_the_absent_make_up_the_whole():
    annotations, found = random_case(3, k=6)
    evaluator = evaluate(annotations, found, counts=counts(1, 5, 20, 60, 300, 900))
    metrics, rows = evaluator.compute(), evaluator.per_category()
    shares = {g: [row for row in rows if row.group == g and not math.isnan(row.AP)] for g in "rcf"}
    total = sum(len(s) * metrics[f"AP{g}"] for g, s in shares.items() if s)
    assert total / sum(map(len, shares.values())) == pytest.approx(metrics["AP"])


# --------------------------------------------------------------------------- behaviour


def test_the_order_of_images_and_batches_does_not_matter():
    annotations, found = random_case(1)
    whole = evaluate(annotations, found).compute()
    evaluator = CocoEvaluator(annotations)
    for image_id in sorted(found, reverse=True):
        evaluator.update([found[image_id]], [image_id])
    assert evaluator.compute() == pytest.approx(whole, abs=0, nan_ok=True)


def test_two_processes_merged_equal_one():
    annotations, found = random_case(2)
    ids = list(found)
    first, second = CocoEvaluator(annotations), CocoEvaluator(annotations)
    first.update([found[i] for i in ids[::2]], ids[::2])
    second.update([found[i] for i in ids[1::2]], ids[1::2])
    before = first.compute()
    first.merge(pickle.loads(pickle.dumps(second.state())))
    one = evaluate(annotations, found).compute()
    assert first.compute() == pytest.approx(one, abs=0, nan_ok=True)
    assert before["AR100"] != one["AR100"]


def test_nothing_is_printed(capfd):
    annotations, found = random_case(0)
    evaluate(annotations, found).compute()
    assert capfd.readouterr() == ("", "")


def test_float32_detections_as_a_detector_gives_them():
    annotations, found = random_case(4, decimals=0)
    single = {
        i: replace(d, boxes=d.boxes.float(), scores=d.scores.float()) for i, d in found.items()
    }
    expected = evaluate(annotations, found).compute()
    assert evaluate(annotations, single).compute() == pytest.approx(expected, nan_ok=True)


def test_mistakes_are_named():
    evaluator = CocoEvaluator(annotation_set(ONE))
    fine = detections([[0, 0, 9, 9]], [0.5], [0])
    with pytest.raises(DataError, match=r"image id 77 .*val\.json"):
        evaluator.update([fine], [77])
    with pytest.raises(DataError, match=r"image 5: label 3 .*0\.\.2"):
        evaluator.update([detections([[0, 0, 9, 9]], [0.5], [3])], [5])
    with pytest.raises(DataError, match=r"image 5: .*finite"):
        evaluator.update([detections([[0, 0, 9, 9]], [float("nan")], [0])], [5])
    evaluator.update([fine], [5])
    with pytest.raises(DataError, match=r"5: .*twice"):
        evaluator.update([fine], [5])
    with pytest.raises(ConfigError, match=r"2 training categories .* 3"):
        CocoEvaluator(annotation_set(ONE), counts=counts(1, 2))
    with pytest.raises(ConfigError, match="max_detections = 10"):
        CocoEvaluator(annotation_set(ONE), max_detections=10)
