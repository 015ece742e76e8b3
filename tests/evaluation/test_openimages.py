"""Open Images' metric: each rule by hand, and random cases against a slow plain version."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperfocal import cli
from hyperfocal.data.formats.openimages import read_boxes, read_openimages
from hyperfocal.evaluation import OpenImagesEvaluator, evaluate_openimages
from hyperfocal.types import (
    AnnotationSet,
    Category,
    CategoryCounts,
    DataError,
    Detections,
    ImageRecord,
    OpenImagesBoxes,
    OpenImagesLists,
    OpenImagesTruth,
)

Row = tuple[str, int, list[float], float]
BOX, FAR = [0.1, 0.1, 0.3, 0.3], [0.6, 0.6, 0.8, 0.8]
WIDE = [0.0, 0.0, 1.0, 1.0]


def table(rows: list[Row]) -> OpenImagesBoxes:
    names = list(dict.fromkeys(r[0] for r in rows))
    return OpenImagesBoxes(
        tuple(names),
        np.array([names.index(r[0]) for r in rows], np.int64),
        np.array([r[1] for r in rows], np.int64),
        np.array([r[2] for r in rows], np.float64).reshape(-1, 4),
        np.array([r[3] for r in rows], np.float64),
    )


def truth(
    rows: list[Row],
    positive: set[tuple[str, int]] = frozenset(),  # type: ignore[assignment]
    negative: set[tuple[str, int]] = frozenset(),  # type: ignore[assignment]
    ancestors: tuple[frozenset[int], ...] = (frozenset(), frozenset({0}), frozenset({0, 1})),
) -> OpenImagesTruth:
    names = tuple(Category(n + 1, f"c{n}") for n in range(len(ancestors)))
    return OpenImagesTruth(
        Path("boxes.csv"), names, table(rows), frozenset(positive), frozenset(negative), ancestors
    )


def ap(t: OpenImagesTruth, rows: list[Row], **options: bool) -> list[float]:
    return [c.AP50 for c in evaluate_openimages(t, table(rows), **options).categories]


def test_boxes_count_for_all_ancestors_and_detections_only_if_asked():
    t = truth([("a", 2, BOX, 0)])
    assert ap(t, [("a", 2, BOX, 0.9)]) == [0, 0, 1]
    assert ap(t, [("a", 2, BOX, 0.9)], expand_detections=True) == [1, 1, 1]


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        (set(), set(), 1.0),  # neither: dropped
        ({("b", 1)}, set(), 0.5),
        ({("b", 2)}, set(), 0.5),  # a label verified present is so for its ancestors
        (set(), {("b", 0)}, 0.5),  # one verified absent, for its descendants
        (set(), {("b", 2)}, 1.0),  # and not the other way
        ({("b", 0)}, set(), 1.0),
    ],
)
def test_only_verified_labels_count_as_misses(positive, negative, expected):
    t = truth([("a", 1, BOX, 0)], positive, negative)
    assert ap(t, [("b", 1, BOX, 0.9), ("a", 1, BOX, 0.5)])[1] == expected


def test_second_hit_is_a_miss_even_where_another_box_would_fit():
    near = [0.1, 0.1, 0.3, 0.32]
    t = truth([("a", 0, BOX, 0), ("a", 0, near, 0)])
    # Both detections overlap the first box most; the second box stays unfound.
    assert ap(t, [("a", 0, BOX, 0.9), ("a", 0, BOX, 0.8)])[0] == 0.5


def test_a_group_of_box_is_hit_once_and_hides_the_rest():
    t = truth([("a", 0, WIDE, 1), ("a", 0, FAR, 0)])
    rows = [("a", 0, BOX, 0.9), ("a", 0, BOX, 0.8), ("a", 0, FAR, 0.1)]
    assert ap(t, rows)[0] == 1
    assert ap(t, rows[:2])[0] == 0.5
    assert ap(t, [*rows, ("a", 0, FAR, 0.05)])[0] == 1  # a double inside the group


@pytest.mark.parametrize(
    "empty",
    [[0.5, 0.5, 0.5, 0.6], [0.5, 0.5, 0.6, 0.5], [0.5, 0.5, 0.5, 0.5], [0.3, 0.3, 0.1, 0.1]],
)
def test_detections_without_width_or_height_are_dropped(empty):
    t = truth([("a", 0, BOX, 0)])
    assert ap(t, [("a", 0, empty, 0.9), ("a", 0, BOX, 0.8)])[0] == 1
    assert ap(t, [("a", 0, empty, 0.9)])[0] == 0
    found = table([("a", 1, empty, 0.9), ("a", 1, BOX, 0.8)])
    assert evaluate_openimages(t, found, expand_detections=True).categories[0].AP50 == 1


def test_half_a_detection_inside_is_enough_for_a_group():
    t = truth([("a", 0, [0, 0, 0.5, 1], 1)])
    assert ap(t, [("a", 0, [0.25, 0, 0.75, 1], 0.9)])[0] == 1
    assert ap(t, [("a", 0, [0.375, 0, 0.875, 1], 0.9)])[0] == 0


def test_categories_without_boxes_are_nan_and_skipped():
    result = evaluate_openimages(truth([("a", 0, BOX, 0)]), table([("a", 0, BOX, 1)]))
    assert [math.isnan(c.AP50) for c in result.categories] == [False, True, True]
    assert result.metrics == {"AP50": 1}


def test_five_groups_from_rarest_to_most_frequent():
    none = (frozenset(),) * 10
    t = truth([("a", c, BOX, 0) for c in range(10)], ancestors=none)
    found = table([("a", c, BOX, 1.0) for c in (3, 4, 5)])
    metrics = evaluate_openimages(t, found, train_boxes=[9, 8, 7, 1, 2, 3, 4, 5, 6, 10]).metrics
    assert [metrics[f"AP{n}"] for n in range(1, 6)] == [1, 0.5, 0, 0, 0]


def slow(t: OpenImagesTruth, rows: list[Row], label: int) -> float:
    """The rules one by one, for one category."""
    up = [{c, *t.ancestors[c]} for c in range(len(t.categories))]
    gt = [
        (t.boxes.names[i], box, g)
        for i, c, box, g in zip(
            t.boxes.image, t.boxes.labels, t.boxes.xyxy.tolist(), t.boxes.value, strict=True
        )
        if label in up[c]
    ]
    if not gt:
        return float("nan")
    seen = {i for i, _, _ in gt} | {i for i, c in t.positive if label in up[c]}
    seen |= {i for i, c in t.negative if c in up[label]}

    def area(b):
        return (b[2] - b[0]) * (b[3] - b[1])

    def cut(a, b):
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        return max(w, 0) * max(h, 0)

    events = []
    for image in dict.fromkeys(r[0] for r in rows):
        if image not in seen:
            continue
        mine = [(n, r) for n, r in enumerate(rows) if r[0] == image and r[1] == label]
        mine.sort(key=lambda entry: -entry[1][3])
        single = [b for i, b, g in gt if i == image and not g]
        group = [b for i, b, g in gt if i == image and g]
        used, used_group = set(), set()
        for row, (_, _, box, score) in mine:
            ious = [cut(box, b) / (area(box) + area(b) - cut(box, b)) for b in single]
            n = max(range(len(ious)), key=lambda j: ious[j], default=-1)
            if n >= 0 and ious[n] >= 0.5 and n not in used:
                used.add(n)
                events.append((score, True, row))
                continue
            parts = [cut(box, b) / area(box) for b in group]
            m = max(range(len(parts)), key=lambda j: parts[j], default=-1)
            if m < 0 or parts[m] < 0.5:
                events.append((score, False, row))
            elif m not in used_group:
                used_group.add(m)
                events.append((score, True, row))
    events.sort(key=lambda e: (-e[0], e[2]))
    hits, points = 0, []
    for n, (_, hit, _) in enumerate(events):
        hits += hit
        points.append((hits, hits / (n + 1), hit))
    return sum(max(p for _, p, _ in points[n:]) for n, e in enumerate(points) if e[2]) / len(gt)


def test_random_cases_equal_the_slow_version(monkeypatch):
    monkeypatch.setattr("hyperfocal.evaluation.openimages.IMAGES_AT_ONCE", 2)
    for seed in range(150):
        rng = np.random.default_rng(seed)

        def rows(n: int, values: list[float], rng: np.random.Generator = rng) -> list[Row]:
            low = rng.integers(0, 4, (n, 2)) / 8
            boxes = np.concatenate([low, low + rng.integers(1, 5, (n, 2)) / 8], axis=1)
            return [
                (str(rng.integers(3)), int(rng.integers(3)), b, float(rng.choice(values)))
                for b in boxes.tolist()
            ]

        def labels(rng: np.random.Generator = rng) -> set[tuple[str, int]]:
            return {(str(rng.integers(3)), int(rng.integers(3))) for _ in range(3)}

        t = truth(rows(int(rng.integers(0, 9)), [0, 0, 1]), labels(), labels())
        found = rows(25, list(np.arange(1000)))
        expected = [slow(t, found, c) for c in range(3)]
        assert ap(t, found) == pytest.approx(expected, nan_ok=True), seed


def files(folder: Path) -> list[str]:
    (folder / "boxes.csv").write_text(
        "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
        "a,/m/cat,0.1,0.3,0.1,0.3,0\nb,/m/cat,0.0,1.0,0.0,1.0,1\nb,/m/root,0,1,0,1,0\n"
    )
    (folder / "labels.csv").write_text("ImageID,LabelName,Confidence\na,/m/cat,1\nc,/m/pet,0\n")
    (folder / "classes.csv").write_text('/m/pet,Pet\n/m/cat,"Cat, tame"\n')
    (folder / "tree.json").write_text(
        json.dumps({"LabelName": "/m/root", "Subcategory": [
            {"LabelName": "/m/pet", "Subcategory": [{"LabelName": "/m/cat"}]}]})
    )  # fmt: skip
    return [str(folder / name) for name in ("boxes.csv", "labels.csv", "classes.csv", "tree.json")]


def test_the_official_files_are_read(tmp_path):
    t = read_openimages(*map(Path, files(tmp_path)))
    assert [c.name for c in t.categories] == ["Pet", "Cat, tame"]
    assert t.boxes.names == ("a", "b")
    assert t.boxes.image.tolist() == [0, 1]
    assert t.boxes.xyxy.tolist() == [BOX, WIDE]
    assert t.boxes.value.tolist() == [0, 1]
    assert (t.positive, t.negative) == ({("a", 1)}, {("c", 0)})
    assert t.ancestors == (frozenset(), frozenset({0}))


def test_the_command_takes_both_formats_of_detections(tmp_path, capsys):
    boxes, labels, classes, tree = files(tmp_path)
    rows, text, out = tmp_path / "rows.csv", tmp_path / "text.csv", tmp_path / "out.json"
    rows.write_text(
        "ImageID,LabelName,Score,XMin,XMax,YMin,YMax\n"
        "c,/m/cat,0.9,0.1,0.3,0.1,0.3\na,/m/cat,0.5,0.1,0.3,0.1,0.3\n"
    )
    text.write_text(
        "ImageId,PredictionString\nc,/m/cat 0.9 0.1 0.1 0.3 0.3\na,/m/cat 0.5 .1 .1 .3 .3\n"
    )
    words = ["--protocol", "openimages", "--data.annotations", boxes, "--data.classes", classes]
    more = ["--data.image-labels", labels, "--data.hierarchy", tree, "--json", str(out)]
    for file in (rows, text):
        assert cli.main(["evaluate", "--detections", str(file), *words, *more]) == 0
        # Cat: a miss in c, a hit in a, the group-of box of b unfound. Pet: nothing detected.
        metrics = json.loads(out.read_text())["metrics"]
        assert metrics["AP50"] == pytest.approx((0.25 + 0) / 2)
    assert cli.main(["evaluate", "--detections", str(rows), *words]) == 2
    assert "--data.image-labels" in capsys.readouterr().err


def test_broken_files_name_the_line(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("ImageID,LabelName,Score,XMin,XMax,YMin,YMax\na,x,high,0,1,0,1\n")
    with pytest.raises(DataError, match="line 2: Score must be a finite number"):
        read_boxes(path, {"x": 0}, "Score")
    path.write_text("ImageID,LabelName\n")
    with pytest.raises(DataError, match="no column XMin"):
        read_boxes(path, {"x": 0}, "Score")


def test_a_split_with_pixels_in_two_processes_gives_the_same_numbers():
    sizes = {"0": (64, 128), "1": (96, 96), "2": (200, 40)}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        low = rng.integers(0, 4, (40, 2)) / 8
        boxes = np.concatenate([low, low + rng.integers(1, 5, (40, 2)) / 8], axis=1).tolist()
        rows = [(str(rng.integers(3)), int(rng.integers(3)), box, 0.0) for box in boxes]
        gt = [(i, c, box, float(rng.random() < 0.2)) for i, c, box, _ in rows[:10]]
        dt = [(i, c, box, float(n) / 40) for n, (i, c, box, _) in enumerate(rows[10:])]
        positive, negative = {("2", 2)}, {("1", 0)}
        t = truth(gt, positive, negative)
        expected = evaluate_openimages(t, table(dt), train_boxes=[5, 1, 9])

        def pixels(some: list[Row], image: str) -> tuple[np.ndarray, ...]:
            own = [r for r in some if r[0] == image]
            wh = np.array(sizes[image] * 2, np.float64)
            box = np.array([r[2] for r in own]).reshape(-1, 4) * wh
            return box, np.array([r[1] for r in own], np.int64), np.array([r[3] for r in own])

        records = []
        for image, (width, height) in sizes.items():
            box, label, group = pixels(gt, image)
            area = np.ones(len(label))
            records.append(
                ImageRecord(int(image), Path(image), height, width, box, label, group > 0, area)
            )
        lists = OpenImagesLists({2: frozenset({2})}, {1: frozenset({0})}, t.ancestors)
        split = AnnotationSet(Path("x.csv"), t.categories, tuple(records), None, lists)
        counts = CategoryCounts((5, 1, 9), (5, 1, 9), 20)
        parts = [OpenImagesEvaluator(split, counts=counts) for _ in range(2)]
        for image in sizes:
            box, label, score = map(torch.from_numpy, pixels(dt, image))
            parts[int(image) % 2].update([Detections(box, score, label)], [int(image)])
        parts[0].merge(parts[1].state())
        assert parts[0].compute() == pytest.approx(expected.metrics, nan_ok=True), seed
        assert [c.AP50 for c in parts[0].per_category()] == pytest.approx(
            [c.AP50 for c in expected.categories], nan_ok=True
        )
