"""FCOS, ATSS, PAA and the improved baseline: loss formula, any loss, any division of a step."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from tests import components
from tests.close import assert_near
from tests.components import LOSSES, kind_of, losses_with
from torch import Tensor

from hyperfocal import config as configs
from hyperfocal.losses import (
    EqualizedFocalLoss,
    QualityLoss,
    giou_loss,
)
from hyperfocal.models import (
    ATSS,
    FCOS,
    PAA,
    Backbone,
    ImprovedBaseline,
    divisors,
)
from hyperfocal.models.dense import DenseDetector, QualityConfig
from hyperfocal.models.detector import predicting
from hyperfocal.models.head import QualityTower
from hyperfocal.models.quality import QualityBranch, centerness
from hyperfocal.models.streamed_topk import streamed_topk
from hyperfocal.models.voting import score_voting
from hyperfocal.ops import box_iou
from hyperfocal.types import Assignment, Batch, CategoryCounts, ConfigError, Priors, Target

DETECTORS: list[type[QualityConfig]] = [
    c for c in components.DETECTORS if issubclass(c, QualityConfig)
]
KINDS = pytest.mark.parametrize("kind", DETECTORS, ids=lambda c: c.kind)


def small(
    kind: type[QualityConfig],
    num_classes: int = 4,
    counts: CategoryCounts | None = None,
    norm: str = "frozen",
    **changes: object,
) -> DenseDetector:
    torch.manual_seed(0)
    head = dataclasses.replace(
        kind().head, depth=1, channels=32, norm="none", prior_probability=0.05
    )
    settings = {
        "backbone": Backbone.Config("resnet18", pretrained=False, norm=norm),
        "neck": dataclasses.replace(kind().neck, channels=32),
        "head": head,
    }
    return kind(**(settings | changes)).build(num_classes, counts)


def ignore_some(model: DenseDetector) -> None:
    """Let the detector ignore every seventh prior."""
    assign = model.criterion.assigner.forward

    def with_ignored(priors: Priors, targets: Sequence[Target]) -> Assignment:
        found = assign(priors, targets)
        labels = found.labels.clone()
        assert (labels[:, ::7] < model.num_classes).any(), "no object's prior is ignored"
        labels[:, ::7] = -1
        return dataclasses.replace(found, labels=labels)

    model.criterion.assigner.forward = with_ignored


def gradients(model: DenseDetector) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


ON_CLASSES = QualityBranch(tower="class")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [*((kind, {}) for kind in DETECTORS), (FCOS.Config, {"quality": ON_CLASSES})],
)
def test_loss_is_the_formula(
    kind: type[QualityConfig], changes: dict[str, QualityBranch], batch: Batch
) -> None:
    model = small(kind, **changes).eval()
    ignore_some(model)
    terms = model(batch)
    levels = model.features(batch)
    cls_maps = [model.head.cls_tower(level) for level in levels]
    rows = model.criterion.positives(model.head, levels, cls_maps, model.truth(batch))
    output = model.head(levels)
    priors = model.priors(batch)
    number, box, quality, total = 0, 0.0, 0.0, 0.0
    classification = torch.zeros((), dtype=torch.float64)
    ignored = rows.assignment.labels == -1
    assert ignored.any(dim=1).all()
    for b, target in enumerate(batch.targets):
        trained = rows.assignment.labels[b] >= 0
        classification += focal_by_definition(
            output.cls[b][trained], rows.assignment.labels[b][trained]
        )
        for a in rows.assignment.positives(4)[b].nonzero().flatten().tolist():
            gt = target.boxes[rows.assignment.gt_index[b, a]]
            pred = model.criterion.coder.decode(output.box[b, a], priors.boxes[a])
            if model.criterion.quality.target == "iou":
                aim = box_iou(pred[None], gt[None])[0, 0].item()
            else:
                x, y = priors.centers[a].tolist()
                left, right = sorted((x - gt[0].item(), gt[2].item() - x))
                top, bottom = sorted((y - gt[1].item(), gt[3].item() - y))
                aim = math.sqrt(left / right * top / bottom)
            number, total = number + 1, total + aim
            box += aim * giou_loss(pred, gt).item()
            assert output.quality is not None
            quality += F.binary_cross_entropy_with_logits(
                output.quality[b, a], torch.tensor(aim)
            ).item()
    assert number == terms.positives.item() > 3
    assert terms["box"].item() == pytest.approx(model.criterion.box_weight * box / total, rel=1e-4)
    assert terms["quality"].item() == pytest.approx(
        model.criterion.quality.weight * quality / number, rel=1e-4
    )
    assert terms["classification"].item() == pytest.approx(classification.item() / number, rel=1e-4)
    assert terms.total.item() == pytest.approx(
        (terms["classification"] + terms["box"] + terms["quality"]).item()
    )


def focal_by_definition(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ -α_t (1 - p_t)² log p_t of ``(A, K)`` logits in float64, α = 1/4; label K: background."""
    positive = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].bool()
    p = logits.detach().double().sigmoid()
    p_t = p.where(positive, 1 - p)
    alpha_t = torch.where(positive, 0.25, 0.75)
    return -(alpha_t * (1 - p_t) ** 2 * p_t.log()).sum()


@KINDS
def test_micro_batches_give_the_gradients_of_the_whole(
    kind: type[QualityConfig], batch: Batch
) -> None:
    whole = small(kind)
    parts = copy.deepcopy(whole)
    whole(batch).total.backward()
    z = parts.divisors(batch)
    assert z.shape == (3, 2)
    for part in (slice(0, 2), slice(2, 3)):
        parts.loss_terms(batch[part], z[part]).total.backward()
    for name, grad in gradients(whole).items():
        assert_near(gradients(parts)[name], grad, of_largest=1e-5)


def test_a_quality_branch_learns_from_the_tower_that_it_stands_on(batch: Batch) -> None:
    for tower, other in (("box", "cls_tower"), ("class", "box_tower")):
        model = small(FCOS.Config, quality=QualityBranch(tower=tower))
        quality = model(batch)["quality"]
        quality.backward()
        moved = {name for name, g in gradients(model).items() if g is not None and g.any()}
        assert "head.quality_logits.weight" in moved
        assert not any(name.startswith(f"head.{other}") for name in moved)
        assert len(model.eval().detect(batch)) == 3


@pytest.mark.parametrize("kind", [FCOS.Config, ATSS.Config])
def test_centerness_needs_no_network_for_the_normaliser(
    kind: type[QualityConfig], batch: Batch
) -> None:
    model = small(kind)
    model.backbone.forward = None  # type: ignore[assignment]
    priors = model.priors(batch)
    assignment = model.criterion.assigner(priors, batch.targets)
    image, prior = assignment.positives(4).nonzero(as_tuple=True)
    pairs = zip(image.tolist(), assignment.gt_index[image, prior].tolist(), strict=True)
    boxes = torch.stack([batch.targets[b].boxes[row] for b, row in pairs])
    weight = centerness(priors.centers[prior], boxes).sum().item()
    assert 0 < weight < len(image)
    for found in model.divisors(batch).tolist():
        assert found == pytest.approx([len(image), weight])


@pytest.mark.parametrize("tower", ["box", "class"])
@KINDS
def test_images_without_boxes_train(
    kind: type[QualityConfig], tower: QualityTower, batch: Batch
) -> None:
    """Finite loss, and a gradient for everything that DDP waits for."""
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    quality = dataclasses.replace(kind().quality, tower=tower)
    model = small(kind, norm="train", quality=quality)
    nothing = dataclasses.replace(batch, targets=(empty,) * 3)
    assert model.divisors(nothing)[:, 0].tolist() == [1.0] * 3
    terms = model(nothing)
    assert terms["box"].item() == 0 == terms.positives.item()
    terms.total.backward()
    for name, grad in gradients(model).items():
        assert grad is not None, name
        assert grad.isfinite().all(), name
    assert gradients(model)["head.cls_logits.weight"].abs().sum() > 0


COUNTS = CategoryCounts(images=(50, 5, 2, 1), instances=(90, 7, 3, 1), num_images=60)


@pytest.mark.parametrize("loss", LOSSES, ids=kind_of)
@KINDS
def test_every_loss_trains(
    kind: type[QualityConfig], loss: type[configs.Config], batch: Batch
) -> None:
    model = small(kind, loss=loss(), counts=COUNTS)
    terms = model(batch)
    terms.total.backward()
    model.step()
    assert terms.total.isfinite()
    assert all(g.isfinite().all() for g in gradients(model).values())
    assert gradients(model)["head.cls_logits.weight"].abs().sum() > 0


@pytest.mark.parametrize("loss", [EqualizedFocalLoss.Config()])
@pytest.mark.parametrize("kind", [PAA.Config, ImprovedBaseline])
def test_streaming_changes_nothing(
    kind: type[QualityConfig], loss: configs.Config, batch: Batch
) -> None:
    whole, parts = (small(kind, 200, loss=loss, stream_from=n) for n in (10**6, 100))
    assert parts.streams > whole.streams
    for model in (whole, parts):
        model(batch).total.backward()
        model.step()
    for name, grad in gradients(whole).items():
        close = {"rtol": 1e-4, "atol": 1e-5 * grad.abs().max().item()}
        torch.testing.assert_close(gradients(parts)[name], grad, **close, msg=name)
    assert_near(parts.loss.pos_grad, whole.loss.pos_grad)
    for a, b in zip(whole.eval().detect(batch), parts.eval().detect(batch), strict=True):
        assert len(a) >= 100
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)


@KINDS
def test_scores_are_class_and_quality(kind: type[QualityConfig], batch: Batch) -> None:
    """The best score of each image is the best of all pairs."""
    model = small(kind).eval()
    threshold = dataclasses.replace(kind().inference, score_threshold=0.0)
    model.inference = threshold.build()
    output = model.head(model.features(batch))
    assert output.quality is not None
    joint = output.cls.sigmoid() * output.quality.sigmoid()[..., None]
    joint = joint.sqrt() if model.criterion.quality.score == "sqrt" else joint
    for found, scores in zip(model.detect(batch), joint, strict=True):
        assert len(found) > 50
        assert (found.scores.diff() <= 0).all()
        assert found.scores[0].item() == pytest.approx(scores.max().item(), rel=1e-5)


def test_threshold_on_class_or_score() -> None:
    for on in ("class", "score"):
        branch = QualityBranch(threshold_on=on, score="product")
        inference = dataclasses.replace(FCOS.Config().inference, score_threshold=0.4).build()
        chosen = streamed_topk(
            [torch.zeros(1, 1, 1, 2)],  # two locations, one category, p = 0.5
            torch.zeros(1, 1, 1, 1),
            None,
            1,
            10,
            inference.least_class_logit(branch),
            inference.rank([torch.tensor([[0.0, 5.0]])], branch),
        )
        assert chosen[0][0].index.tolist() == {"class": [1, 0], "score": [1]}[on]


@KINDS
def test_selection_is_the_best_of_all_joint_scores(kind: type[QualityConfig], batch: Batch) -> None:
    """Each level's scores above the threshold, best first, from the complete score map."""
    model = small(kind).eval()
    inference = dataclasses.replace(kind().inference, pre_nms=40, score_threshold=0.005).build()
    levels, priors = model.features(batch), model.priors(batch)
    output, towers = model.head(levels), model.head.towers(levels)
    assert output.quality is not None
    sizes = list(priors.level_sizes)
    quality = torch.split(output.quality, sizes, dim=1)
    found = streamed_topk(
        towers.cls,
        model.head.cls_logits.weight,
        model.head.cls_logits.bias,
        model.num_classes,
        40,
        inference.least_class_logit(model.criterion.quality),
        inference.rank(quality, model.criterion.quality),
        logits_at_once=300,
    )
    for level, logits in enumerate(torch.split(output.cls, sizes, dim=1)):
        scores = model.criterion.quality.scores(logits, quality[level][..., None])
        compared = logits.sigmoid() if model.criterion.quality.threshold_on == "class" else scores
        for image in range(len(batch)):
            flat = scores[image].where(compared[image] > 0.005, -1).flatten()
            want = flat.sort(descending=True).values[:40]
            got = flat[found[level][image].index]
            torch.testing.assert_close(got, want[want >= 0])


def test_centerness_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    centers = torch.tensor([[5.0, 5], [2, 5], [-1, 5]])
    assert centerness(centers, boxes).tolist() == pytest.approx([1, 0.5, 0])


def test_score_voting_by_hand() -> None:
    """Weights 0.9 · 1 and 0.8 · exp(-(1 - 0.8)² / 0.025); the other category has no vote."""
    kept = torch.tensor([[0.0, 0, 10, 10]])
    voters = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 9], [90, 90, 99, 99]])
    labels = torch.tensor([1, 1, 0, 1])
    moved = score_voting(
        kept, torch.tensor([1]), voters, torch.tensor([0.9, 0.8, 1.0, 1.0]), labels
    )
    w = 0.8 * math.exp(-0.04 / 0.025)
    assert moved[0].tolist() == pytest.approx([0, 0, 10, (9 + 8 * w) / (0.9 + w)], rel=1e-5)
    empty = torch.tensor([[3.0, 3, 3, 3]])
    one = torch.tensor([1])
    assert torch.equal(score_voting(empty, one, empty, torch.ones(1), one), empty)


@KINDS
def test_config_survives_json(kind: type[QualityConfig]) -> None:
    settings = kind(loss=EqualizedFocalLoss.Config())
    assert configs.load(kind, configs.dump(settings)) == settings


def test_locations_are_squares_of_one_stride() -> None:
    with pytest.raises(ConfigError, match="one square of one stride"):
        FCOS.Config(anchors=ATSS.Config().anchors)


def test_alike_weighted_boxes_are_divided_by_the_positives_of_all_processes(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(FCOS.Config, quality=QualityBranch(weigh_boxes=False))
    assert model.criterion.known_counts(model.truth(batch))[1] is None
    computes = model.criterion.divisors
    number = torch.tensor([10])
    alone = computes(number)
    # This process has no positives, the other has them all.
    monkeypatch.setattr(divisors.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(divisors.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(divisors.dist, "all_reduce", lambda totals: totals.add_(10))
    torch.testing.assert_close(2 * computes(number * 0), alone)
    monkeypatch.setattr(divisors.dist, "all_reduce", lambda totals: totals)
    assert (2 * computes(number * 0)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("value", [math.nan, 1e38])
@pytest.mark.parametrize("loss", losses_with(QualityLoss), ids=kind_of)
@KINDS
def test_diverged_boxes_make_a_loss_that_is_not_finite_and_no_complaint_about_data(
    kind: type[QualityConfig], loss: type[configs.Config], value: float, batch: Batch
) -> None:
    model = small(kind, loss=loss(), counts=COUNTS)
    model.head.box_deltas.bias.data.fill_(value)
    assert not model(batch).total.isfinite()


def test_predicting_gives_the_mode_back_after_an_error() -> None:
    model = small(FCOS.Config)
    with contextlib.suppress(ZeroDivisionError), predicting(model):
        assert not model.training
        raise ZeroDivisionError
    assert model.training
