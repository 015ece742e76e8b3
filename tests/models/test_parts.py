"""FPN, head, divisors and inference, each tested alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from hyperfocal.models import FPN, DenseHead, Inference, LossDivisors
from hyperfocal.models.divisors import DivisorKind
from hyperfocal.models.head import HeadOutput, join_levels
from hyperfocal.models.matched import Where
from hyperfocal.ops import stable_topk
from hyperfocal.types import Batch, ConfigError, Detections, Priors, Target

MAPS = tuple(torch.randn(2, c, 64 // s * 2, 64 // s * 3) for c, s in ((8, 8), (12, 16), (16, 32)))


@pytest.mark.parametrize(("source", "p6_channels"), [("c5", 16), ("p5", 10)])
def test_pyramid_is_torchvisions(source: str, p6_channels: int) -> None:
    ours = FPN((8, 12, 16), 10, extra_source=source)
    theirs = FeaturePyramidNetwork([8, 12, 16], 10, LastLevelP6P7(p6_channels, 10))
    pairs = [*ours.lateral, *ours.output, *ours.extra]
    convolutions = [m for m in theirs.modules() if isinstance(m, torch.nn.Conv2d)]
    for mine, other in zip(pairs, convolutions, strict=True):
        other.load_state_dict(mine.state_dict())
    expected = list(theirs(dict(enumerate(MAPS))).values())
    for a, b in zip(ours(MAPS), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_extra_levels_from_the_lateral_and_without_relu() -> None:
    neck = FPN((8, 12, 16), 10, extra_source="c5_lateral", relu=False)
    levels = neck(MAPS)
    p6 = neck.extra[0](neck.lateral[2](MAPS[2]))
    torch.testing.assert_close(levels[3], p6)
    torch.testing.assert_close(levels[4], neck.extra[1](p6))


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_strides_are_those_of_the_maps(levels: int) -> None:
    neck = FPN.Config(channels=4, num_levels=levels).build((8, 12, 16))
    heights = [128 / m.shape[2] for m in neck(MAPS)]
    assert heights == list(neck.strides)
    assert len(heights) == levels


def test_head_order_is_level_row_column_anchor() -> None:
    """A spike in one cell of one level shows up at that cell's anchors and nowhere else."""
    head = DenseHead(4, num_anchors=3, num_classes=5, depth=0)
    torch.nn.init.zeros_(head.cls_logits.weight)
    head.cls_logits.weight.data[1 * 5 + 2, 0, 1, 1] = 1  # anchor 1, category 2
    features = [torch.zeros(1, 4, 4, 6), torch.zeros(1, 4, 2, 3)]
    features[1][0, 0, 1, 2] = 7
    logits = head(features).cls - head.cls_logits.bias[0]
    cell = (4 * 6 + 1 * 3 + 2) * 3 + 1
    assert logits[0].nonzero().tolist() == [[cell, 2]]


def test_levels_in_channels_last_join_without_a_copy_each() -> None:
    first, second = (torch.randn(2, 6, *hw) for hw in ((4, 5), (2, 3)))
    level = first.to(memory_format=torch.channels_last)
    rows = join_levels([level], 3)
    assert rows.data_ptr() == level.data_ptr()
    joined = join_levels([level, second], 3)
    assert joined.shape == (2, (4 * 5 + 2 * 3) * 2, 3)
    for y, x, anchor in itertools.product(range(4), range(5), range(2)):
        at = (y * 5 + x) * 2 + anchor
        assert torch.equal(rows[:, at], first[:, anchor * 3 : anchor * 3 + 3, y, x])
        assert torch.equal(joined[:, at], rows[:, at])
    for y, x, anchor in itertools.product(range(2), range(3), range(2)):
        at = 40 + (y * 3 + x) * 2 + anchor
        assert torch.equal(joined[:, at], second[:, anchor * 3 : anchor * 3 + 3, y, x])


@pytest.mark.parametrize("norm", ["none", "gn"])
def test_towers_are_shared_over_levels_and_apart_from_each_other(norm: str) -> None:
    head = DenseHead(32, 1, 2, depth=2, channels=32, norm=norm)
    level = torch.randn(1, 32, 4, 4)
    towers = head.towers([level, level])
    assert torch.equal(towers.cls[0], towers.cls[1])
    assert not torch.equal(towers.cls[0], towers.box[0])
    assert head(2 * [level]).cls.shape == (1, 32, 2)


@pytest.mark.parametrize("norm", ["none", "gn"])
@pytest.mark.parametrize(
    "wanted", [[], [(0, 0)], [(2, 5), (0, 40)], [(0, 3), (1, 3), (2, 3), (2, 40), (0, 2), (2, 39)]]
)
def test_boxes_of_a_few_priors_are_those_of_all(norm: str, wanted: list[tuple[int, int]]) -> None:
    """Values and gradients; with none wanted, gradients of zero."""
    head = DenseHead(32, num_anchors=2, num_classes=1, depth=2, channels=64, norm=norm).double()
    levels = [torch.randn(3, 32, n, n, dtype=torch.float64) for n in (4, 2, 1)]
    mask = torch.zeros(3, 42, dtype=torch.bool)
    for image, prior in wanted:
        mask[image, prior] = True
    gradients = []
    where = Where(*mask.nonzero(as_tuple=True))
    ways = (
        lambda: head(levels).box[mask].float(),
        lambda: head.regress_at(levels, mask),
        lambda: head._from_all_box_outputs(levels, where).box,  # as on a GPU
    )
    for compute in ways:
        head.zero_grad()
        values = compute()
        values.square().sum().backward()
        parameters = [*head.box_tower.parameters(), *head.box_deltas.parameters()]
        gradients.append([values.detach(), *(p.grad for p in parameters)])
    for way in gradients[1:]:
        for few, all_ in zip(way, gradients[0], strict=True):
            torch.testing.assert_close(few, all_)


# ------------------------------------------------------------------ normaliser


def test_normaliser_formulas() -> None:
    positives, weights = torch.tensor([3, 0, 5]), torch.tensor([1.5, 0.0, 0.5])

    def divisors(kind: DivisorKind, *sums: Tensor) -> list[list[float]]:
        return LossDivisors(kind)(*sums).T.tolist()

    assert divisors("global", positives) == [[8, 8, 8]] * 2
    assert divisors("global", positives * 0) == [[1, 1, 1]] * 2
    assert divisors("global", positives, weights) == [[8, 8, 8], [2, 2, 2]]
    tiny = divisors("global", positives * 0, weights * 0)
    assert tiny[1] == pytest.approx([1e-6] * 3)
    assert divisors("per_image", positives) == [[9, 3, 15]] * 2
    with pytest.raises(ConfigError, match="kind = 'per-image'"):
        LossDivisors("per-image")  # type: ignore[arg-type]
    average = LossDivisors("ema")
    assert average(positives)[:, 0].tolist() == pytest.approx([90.8] * 3)
    assert average(positives * 0)[:, 0].tolist() == pytest.approx([81.82] * 3)
    average.eval()
    assert average(positives)[:, 1].tolist() == pytest.approx([81.82] * 3)


# ------------------------------------------------------------------ inference


def scene(scores: list[list[float]], boxes: list[list[float]]) -> tuple[HeadOutput, Priors, Batch]:
    """One image of 100x200 pixels, twice as large originally; boxes stand where priors are."""
    cls = torch.tensor(scores).logit()[None]
    priors = Priors(torch.tensor(boxes), torch.full((len(boxes),), 8.0), (len(boxes),))
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    hw = torch.tensor([[100, 200]])
    batch = Batch(torch.zeros(1, 3, 128, 224), hw, hw * 2, (target,), (0,))
    return HeadOutput(cls, torch.zeros(1, len(boxes), 4)), priors, batch


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    return anchors + deltas


def infer(inference: Inference, output: HeadOutput, priors: Priors, batch: Batch) -> Detections:
    sizes = list(priors.level_sizes)
    levels = [inference.select(level) for level in output.cls.split(sizes, dim=1)]
    (found,) = inference(levels, output.cls.shape[-1], output.box, priors, batch, decode)
    return found


BOXES = [[10.0, 10, 50, 50], [12, 10, 52, 50], [150, 60, 240, 140]]


def test_inference_by_hand() -> None:
    parts = scene([[0.9, 0.04], [0.8, 0.6], [0.3, 0.05]], BOXES)
    found = infer(Inference(), *parts)
    # The second box yields to the first in category 0 only; the third is cut at the image's edge.
    assert found.scores.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert found.labels.tolist() == [0, 1, 0]
    assert found.boxes.tolist() == [[20, 20, 100, 100], [24, 20, 104, 100], [300, 120, 400, 200]]


def test_inference_options() -> None:
    parts = scene([[0.9, 0.04], [0.8, 0.6], [0.3, 0.05]], BOXES)

    def scores(**settings: float) -> list[float]:
        return infer(Inference(**settings), *parts).scores.tolist()

    assert scores(class_wise=False) == pytest.approx([0.9, 0.3])
    assert scores(nms_iou=0.99) == pytest.approx([0.9, 0.8, 0.6, 0.3])
    assert scores(score_threshold=0.5) == pytest.approx([0.9, 0.6])
    assert scores(max_detections=2) == pytest.approx([0.9, 0.6])
    assert scores(pre_nms=2) == pytest.approx([0.9])
    assert scores(score_threshold=0.0) == pytest.approx([0.9, 0.6, 0.3, 0.05])


def test_boxes_without_area_are_no_detections_and_take_no_place() -> None:
    empty = [[-30.0, 20, -5, 60], [210, 10, 250, 50], [10, 100, 40, 150], [60, 60, 60, 90]]
    sliver = [20.0, 60, 20 + 1e-7, 90]  # its width is lost in float32
    parts = scene([[0.9 - 0.01 * n] for n in range(5)] + [[0.5]] * 3, [*empty, sliver, *BOXES])
    for settings in ({}, {"class_wise": False}, {"max_detections": 1}, {"nms_iou": 1.0}):
        found = infer(Inference(**settings), *parts)
        assert found.scores[0] == pytest.approx(0.5)
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert len(found.labels) == len(found.scores) == len(found.boxes) >= 1


def test_pre_nms_counts_pairs_per_level() -> None:
    output, priors, batch = scene([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1], [0.2, 0.1]], 2 * BOXES[::2])
    levels = Priors(priors.boxes, priors.strides, (2, 2))
    found = infer(Inference(pre_nms=1), output, levels, batch)
    assert found.scores.tolist() == pytest.approx([0.9])  # 0.7 lies on 0.9, one level further
    assert len(infer(Inference(pre_nms=1, nms_iou=1.0), output, levels, batch)) == 2


def test_nothing_above_the_threshold() -> None:
    found = infer(Inference(), *scene([[0.01, 0.02]] * 3, BOXES))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_selection_is_the_sorted_sigmoid_scores() -> None:
    logits = torch.randn(5000).to(torch.bfloat16)  # ties
    inference = Inference(pre_nms=300, score_threshold=0.3)
    chosen = inference.select(logits.view(1, 1000, 5))[0].index
    scores = logits.float().sigmoid()
    expected = stable_topk(scores, 300)
    assert torch.equal(chosen, expected[scores[expected] > 0.3])


@pytest.mark.parametrize(
    "settings", [{"pre_nms": 0}, {"score_threshold": 1.0}, {"nms_iou": 1.5}, {"max_detections": 0}]
)
def test_bad_settings_are_named(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Inference.Config(**settings)
