"""The vectorised max-IoU assigner against a loop over anchors, and cases by hand."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.assign import LowQuality, MaxIoUAssigner, assign_max_iou, max_iou
from hyperfocal.assign.max_iou import assign_max_iou_batched
from hyperfocal.types import ConfigError, Priors, Target

MODES: list[LowQuality] = ["off", "from_neg_threshold", "any", "mmdetection"]
K = 3


def overlap(a: list[float], b: list[float]) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    inter = w * h
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def reference(
    anchors: list[list[float]], boxes: list[list[float]], labels: list[int], mode: LowQuality
) -> tuple[list[int], list[int]]:
    """The rule of `assign_max_iou`, one anchor at a time."""
    out_labels, out_rows = [], []
    for anchor in anchors:
        own = [overlap(anchor, box) for box in boxes]
        best = max(own, default=0.0)
        row = own.index(best) if own else 0
        best_of = [
            overlap(anchor, box) > 0
            and overlap(anchor, box) == max(overlap(other, box) for other in anchors)
            for box in boxes
        ]
        if mode == "mmdetection" and any(
            best_of
        ):  # one box after the other claims its best anchors
            row = max(i for i, claims in enumerate(best_of) if claims)
        rescued = any(best_of) and (
            mode in ("any", "mmdetection") or (mode != "off" and best >= 0.4)
        )
        if boxes and (best >= 0.5 or rescued):
            out_labels.append(labels[row])
            out_rows.append(row)
        else:
            out_labels.append(K if best < 0.4 else -1)
            out_rows.append(0)
    return out_labels, out_rows


def assign(
    anchors: list[list[float]], boxes: list[list[float]], labels: list[int], mode: LowQuality
) -> tuple[list[int], list[int]]:
    target = Target(torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.long))
    found = assign_max_iou(torch.tensor(anchors), target, K, low_quality=mode)
    return found[0].tolist(), found[1].tolist()


# Corners on a coarse grid: ties and exact thresholds are common, areas stay exact in float32.
box = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 5)] * 2).map(
    lambda b: [float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3])]
)


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=150)
@given(
    anchors=st.lists(box, min_size=1, max_size=12),
    boxes=st.lists(st.tuples(box, st.integers(0, K - 1)), max_size=5),
)
def test_same_as_the_rule(
    mode: LowQuality, anchors: list[list[float]], boxes: list[tuple[list[float], int]]
) -> None:
    args = (anchors, [b for b, _ in boxes], [label for _, label in boxes], mode)
    assert assign(*args) == reference(*args)


GT = [0.0, 0, 10, 10]
IOU_05, IOU_04, IOU_045 = [0.0, 0, 10, 5], [0.0, 0, 10, 4], [0.0, 0, 10, 4.5]
IOU_03 = [0.0, 0, 10, 3]


def test_thresholds_include_their_lower_bound() -> None:
    labels, _ = assign([IOU_05, IOU_04, IOU_03], [GT], [2], "off")
    assert labels == [2, -1, K]


def test_an_object_below_the_positive_threshold() -> None:
    assert assign([IOU_045, IOU_03], [GT], [2], "off")[0] == [-1, K]
    assert assign([IOU_045, IOU_03], [GT], [2], "from_neg_threshold")[0] == [2, K]
    assert assign([IOU_03], [GT], [2], "from_neg_threshold")[0] == [K]
    assert assign([IOU_03], [GT], [2], "any")[0] == [2]
    assert assign([IOU_03], [GT], [2], "mmdetection")[0] == [2]


def test_every_tied_best_anchor_counts() -> None:
    twin = [0.0, 5.5, 10, 10]
    assert assign([IOU_045, twin], [GT], [2], "from_neg_threshold")[0] == [2, 2]


def test_a_rescued_anchor_answers_for_the_box_that_it_overlaps_most() -> None:
    # The only anchor is the best of both boxes, but overlaps the second more.
    anchor, other = [0.0, 0, 10, 4.5], [0.0, 0, 10, 9.5]
    labels, rows = assign([anchor], [GT, other], [0, 1], "from_neg_threshold")
    assert (labels, rows) == ([1], [1])


# The first anchor overlaps the near box at 0.4 and is the far box's best one at 0.1.
NEAR, FAR = [0.0, 0, 10, 4], [0.0, 9, 10, 19]
SHARED, BETTER = [0.0, 0, 10, 10], [0.0, 0, 10, 4]


def test_torchvisions_rule_gives_a_best_anchor_to_the_box_that_it_overlaps_most() -> None:
    assert assign([SHARED, BETTER], [NEAR, FAR], [0, 1], "any") == ([0, 0], [0, 0])
    assert assign([SHARED, BETTER], [FAR, NEAR], [1, 0], "any") == ([0, 0], [1, 1])


def test_mmdetections_rule_gives_a_best_anchor_to_the_box_whose_best_it_is() -> None:
    assert assign([SHARED, BETTER], [NEAR, FAR], [0, 1], "mmdetection") == ([1, 0], [1, 0])
    assert assign([SHARED, BETTER], [FAR, NEAR], [1, 0], "mmdetection") == ([1, 0], [0, 1])


def test_mmdetections_rule_takes_an_anchor_from_a_box_for_which_it_is_positive() -> None:
    near = [0.0, 0, 10, 6]  # IoU 0.6 with the shared anchor
    assert assign([SHARED, near], [near, FAR], [0, 1], "any")[0] == [0, 0]
    assert assign([SHARED, near], [near, FAR], [0, 1], "mmdetection")[0] == [1, 0]


def test_in_mmdetections_rule_the_last_of_several_boxes_gets_their_best_anchor() -> None:
    anchor, other = [0.0, 0, 10, 4.5], [0.0, 0, 10, 9.5]
    for boxes in ([GT, other], [other, GT], [GT, GT]):
        assert assign([anchor], boxes, [0, 1], "mmdetection") == ([1], [1])


def restated_mmdetection(iou: list[list[float]], positive: float, negative: float) -> list[int]:
    """The steps of mmdetection's assigner with min_pos_iou 0: -1 ignored, 0 background, row + 1.

    ``iou`` has a row a box. A box of no overlap is passed over here, which it isn't there.
    """
    assigned = []
    for own in zip(*iou, strict=True):
        best = max(own)
        row = own.index(best)
        assigned.append(row + 1 if best >= positive else 0 if best < negative else -1)
    for row, overlaps in enumerate(iou):
        for column, value in enumerate(overlaps):
            if value == max(overlaps) > 0:
                assigned[column] = row + 1
    return assigned


@settings(deadline=None, max_examples=300)
@given(anchors=st.lists(box, min_size=1, max_size=12), boxes=st.lists(box, min_size=1, max_size=5))
def test_mmdetections_steps(anchors: list[list[float]], boxes: list[list[float]]) -> None:
    iou = [[overlap(anchor, gt) for anchor in anchors] for gt in boxes]
    labels, rows = assign(anchors, boxes, [0] * len(boxes), "mmdetection")
    states = restated_mmdetection(iou, 0.5, 0.4)
    for label, row, state in zip(labels, rows, states, strict=True):
        assert (label, row) == ((0, state - 1) if state > 0 else (K if state == 0 else -1, 0))


def test_rescue_asks_for_the_anchors_own_best_overlap() -> None:
    # The anchor is the best one of the far box at IoU 0.11 only, but has 0.45 with the near one,
    # which has a better anchor: Detectron's rule keeps it, with the near box's category.
    anchor, better = [0.0, 0, 10, 10], [0.0, 0, 10, 5]
    near, far = [0.0, 0, 10, 4.5], [0.0, 8, 10, 18]
    assert assign([anchor, better], [near, far], [0, 1], "off")[0] == [-1, 0]
    labels, rows = assign([anchor, better], [near, far], [0, 1], "from_neg_threshold")
    assert (labels, rows) == ([0, 0], [0, 0])


@pytest.mark.parametrize("mode", MODES)
def test_a_box_that_no_anchor_touches_gets_none(mode: LowQuality) -> None:
    labels, _ = assign([[50.0, 50, 60, 60], [70.0, 70, 80, 80]], [GT], [2], mode)
    assert labels == [K, K]


def test_an_image_without_boxes_is_background() -> None:
    assert assign([IOU_05, IOU_03], [], [], "any") == ([K, K], [0, 0])


@pytest.mark.parametrize("mode", MODES)
def test_a_zero_area_box_makes_no_positive(mode: LowQuality) -> None:
    assert assign([IOU_05], [[3.0, 3, 3, 3]], [0], mode)[0] == [K]


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ({}, [1, -1, K]),
        ({"positive": 0.6}, [1, -1, K]),  # the best one is rescued
        ({"positive": 0.6, "low_quality": "off"}, [-1, -1, K]),
        ({"positive": 0.45}, [1, 1, K]),
        ({"negative": 0.2}, [1, -1, -1]),
    ],
    ids=str,
)
def test_a_batch_is_its_images(settings: dict[str, Any], labels: list[int]) -> None:
    priors = Priors(torch.tensor([IOU_05, IOU_045, IOU_03]), torch.full((3,), 8.0), (3,))
    target = Target(torch.tensor([[50.0, 50, 60, 60], GT]), torch.tensor([0, 1]))
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    found = MaxIoUAssigner.Config(**settings).build(K)(priors, (empty, target))
    assert found.labels.tolist() == [[K] * 3, labels]
    assert found.gt_index.tolist() == [[0] * 3, [int(label == 1) for label in labels]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("negative", [0.0, 0.4])
@pytest.mark.parametrize("at_once", [1, 100, 10**6])
def test_images_side_by_side_are_each_image(
    mode: LowQuality, negative: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(max_iou, "OVERLAPS_AT_ONCE", at_once)
    g = torch.Generator().manual_seed(0)

    def some(n: int) -> torch.Tensor:  # on a coarse grid, so that overlaps tie
        corner = torch.randint(0, 6, (n, 2), generator=g).float()
        return torch.cat((corner, corner + torch.randint(0, 5, (n, 2), generator=g)), dim=1)

    for counts in ((3, 0, 7, 1), (0, 0), (5,)):
        anchors = some(40)
        targets = [Target(some(n), torch.randint(0, K, (n,), generator=g)) for n in counts]
        labels, rows = assign_max_iou_batched(anchors, targets, K, 0.5, negative, mode)
        for image, target in enumerate(targets):
            want = assign_max_iou(anchors, target, K, 0.5, negative, mode)
            assert labels[image].equal(want[0])
            assert rows[image].equal(want[1])


def test_impossible_thresholds_are_named() -> None:
    with pytest.raises(ConfigError, match=r"negative = 0\.6"):
        MaxIoUAssigner.Config(positive=0.5, negative=0.6)
