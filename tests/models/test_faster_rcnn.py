"""Faster R-CNN: its loss, sampling, micro-batches, losses by name, and inference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.close import assert_near
from tests.components import OWN_LOGITS, kind_of
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from hyperfocal.assign import sample_balanced, sample_size
from hyperfocal.losses import (
    ClassificationLossConfig,
    EqualizationLoss,
    EqualizedFocalLoss,
    QualityFocalLoss,
    SigmoidFocalLoss,
)
from hyperfocal.models import FPN, RPN, Backbone, FasterRCNN, RetinaNet, RoIHead
from hyperfocal.models.inference import image_sizes
from hyperfocal.types import Batch, CategoryCounts, ConfigError, Target

K = 5
COUNTS = CategoryCounts((100, 50, 20, 5, 2), (200, 90, 30, 7, 2), 120)
SMALL = Backbone.Config("test_resnet", pretrained=False, norm="frozen")
LOSSES = [*OWN_LOGITS, SigmoidFocalLoss.Config, EqualizationLoss.Config, EqualizedFocalLoss.Config]


def small(**settings: Any) -> FasterRCNN:
    torch.manual_seed(0)
    base = {
        "backbone": SMALL,
        "neck": FPN.Config(channels=32, first_stride=4, extra_source="pool"),
        "rpn": RPN.Config(samples=32, train_proposals=60, proposals=60),
        "roi_head": RoIHead.Config(samples=24, fc_channels=32),
    }
    return FasterRCNN.Config(**base | settings).build(K, COUNTS)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 96, 128), dtype=torch.uint8, generator=generator)
    hw = torch.tensor([[96, 128], [90, 100], [96, 128]])
    targets = (
        Target(torch.tensor([[8.0, 8.0, 60.0, 56.0], [70.0, 10.0, 100.0, 90.0]]),
               torch.tensor([0, 4])),
        Target(torch.tensor([[5.0, 5.0, 95.0, 85.0]]), torch.tensor([2])),
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    )  # fmt: skip
    return Batch(images, hw, hw * 2, targets, (1, 2, 3), seeds=(11, 12, 13))


def gradients(model: FasterRCNN) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- sampling


def test_samples_have_at_most_their_share_of_positives() -> None:
    labels = torch.tensor([0] * 10 + [K] * 50 + [-1] * 40)[torch.randperm(100)]
    for number, fraction in ((16, 0.25), (32, 0.5), (80, 0.5), (4, 1.0)):
        chosen = sample_balanced(labels, K, number, fraction, torch.Generator().manual_seed(1))
        positives = int((labels[chosen] < K).sum())
        assert len(chosen.unique()) == len(chosen)
        assert (labels[chosen] >= 0).all()
        assert positives == min(10, int(number * fraction))
        assert len(chosen) == positives + min(50, number - positives)
        size = sample_size(labels[None], K, number, fraction)
        assert size.tolist() == [len(chosen)]


def test_every_negative_is_sampled_equally_often() -> None:
    labels = torch.tensor([K] * 20)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(20)
    for _ in range(2000):
        counts[sample_balanced(labels, K, 5, 0.5, generator)] += 1
    assert counts.sum() == 10_000
    assert (counts / 2000 - 0.25).abs().max() < 0.05  # five standard deviations


# ---------------------------------------------------------------- loss


def test_the_loss_is_the_formula(batch: Batch) -> None:
    model = small(box_weight=0.7, rpn_weight=0.5)
    terms = model(batch)
    levels, priors = model.features(batch), model.priors(batch)
    outputs = model.rpn(levels)
    proposals = model.rpn.propose(outputs, priors, [s.valid_hw for s in image_sizes(batch)])
    generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
    rois = model.roi_head.sample(proposals, batch.targets, generators)
    found = model.roi_head(levels, rois.boxes, rois.image)
    want = cross_entropy(found.logits, rois.labels)
    torch.testing.assert_close(terms["classification"], want)
    positive = rois.labels < K
    assert terms.positives == positive.sum() > 3
    deltas = found.deltas[positive, rois.labels[positive]]
    goal = model.roi_head.coder.encode(rois.gt[positive], rois.boxes[positive])
    want = 0.7 * (deltas - goal).abs().sum() / len(rois.labels)
    torch.testing.assert_close(terms["box"], want)

    assignment = model.rpn.assign(priors, batch.targets)
    entropy, boxes, number = 0.0, 0.0, 0
    for b, target in enumerate(batch.targets):
        labels = assignment.labels[b]
        chosen = sample_balanced(labels, 1, 32, 0.5, generators[b])
        own = (labels[chosen] == 0).float()
        logits = outputs.objectness[b, chosen]
        entropy += binary_cross_entropy_with_logits(logits, own, reduction="sum")
        at = chosen[own.bool()]
        gt = target.boxes[assignment.gt_index[b, at]]
        boxes += (outputs.deltas[b, at] - model.rpn.coder.encode(gt, priors.boxes[at])).abs().sum()
        number += len(chosen)
    torch.testing.assert_close(terms["rpn_classification"], 0.5 * entropy / number)
    torch.testing.assert_close(terms["rpn_box"], 0.5 * boxes / number)
    assert float(boxes) > 0
    torch.testing.assert_close(terms.total, sum(terms.terms.values()))


def test_rois_are_labelled_by_their_overlap(batch: Batch) -> None:
    model = small()
    proposals = [torch.tensor([[10.0, 8.0, 60.0, 56.0], [0.0, 0.0, 20.0, 20.0]])] * 3
    rois = model.roi_head.sample(proposals, batch.targets, [torch.Generator()] * 3)
    rows = list(zip(rois.image.tolist(), rois.labels.tolist(), rois.boxes.tolist(), strict=True))
    assert (0, 0, [10.0, 8.0, 60.0, 56.0]) in rows  # overlaps the first object
    assert (0, 4, [70.0, 10.0, 100.0, 90.0]) in rows  # a ground-truth box itself
    assert (0, K, [0.0, 0.0, 20.0, 20.0]) in rows
    assert {label for image, label, _ in rows if image == 2} == {K}


@pytest.mark.parametrize("loss", LOSSES, ids=kind_of)
def test_micro_batches_give_the_gradients_of_the_whole(
    batch: Batch, loss: type[ClassificationLossConfig]
) -> None:
    """With the same samples; BAGS uses means over the rows of a call."""
    whole = small(loss=loss())
    parts = copy.deepcopy(whole)
    torch.manual_seed(1)
    whole(batch).total.backward()
    slices = [slice(0, 1), slice(1, 3)]
    z = parts.divisors(batch, slices)
    assert z.shape == (3, 2)
    for part in slices:
        parts.loss_terms(batch[part], z[part]).total.backward()
    own, other = gradients(whole), gradients(parts)
    assert own.keys() == other.keys()
    for name, gradient in own.items():
        assert gradient.isfinite().all()
        if loss.adds_up or name.startswith("rpn."):
            assert_near(other[name], gradient, rtol=1e-3, of_largest=1e-4)
    assert all(p.grad is not None for p in whole.parameters() if p.requires_grad)


def test_samples_depend_on_the_images_seeds_only(batch: Batch) -> None:
    model = small()
    torch.manual_seed(5)
    first = model(batch).total
    torch.manual_seed(6)
    assert torch.equal(model(batch).total, first)
    other = Batch(batch.images, batch.valid_hw, batch.original_hw, batch.targets, batch.image_ids,
                  seeds=(1, 2, 3))  # fmt: skip
    assert not torch.equal(model(other).total, first)


def test_without_seeds_the_samples_follow_pytorchs_generator(batch: Batch) -> None:
    model = small()
    free = Batch(batch.images, batch.valid_hw, batch.original_hw, batch.targets, batch.image_ids)
    totals = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        totals.append(model(free).total)
    assert torch.equal(totals[0], totals[1])
    assert not torch.equal(totals[0], totals[2])


def test_images_without_objects_train_the_background(batch: Batch) -> None:
    model = small()
    terms = model(batch[2:3])
    assert terms.positives == 0 == terms["box"] == terms["rpn_box"]
    terms.total.backward()
    assert all(g.isfinite().all() for g in gradients(model).values())
    assert gradients(model)["roi_head.cls_logits.bias"].abs().sum() > 0


def test_bfloat16_is_close_to_float32(batch: Batch) -> None:
    model = small()
    full = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(batch)
        found = model.eval().detect(batch)
    assert half.total.dtype == torch.float32
    torch.testing.assert_close(
        half["rpn_classification"], full["rpn_classification"], rtol=0.02, atol=0
    )
    torch.testing.assert_close(half["classification"], full["classification"], rtol=0.05, atol=0)
    half.total.backward()
    assert all(g.isfinite().all() for g in gradients(model).values())
    assert all(one.boxes.dtype == torch.float32 for one in found)


def test_class_agnostic_boxes_have_four_outputs(batch: Batch) -> None:
    model = small(roi_head=RoIHead.Config(samples=24, fc_channels=32, class_agnostic=True))
    assert model.roi_head.box_deltas.out_features == 4
    model(batch).total.backward()
    assert gradients(model)["roi_head.box_deltas.weight"].abs().sum() > 0
    assert len(model.eval().detect(batch)) == 3


# ---------------------------------------------------------------- inference


@pytest.mark.parametrize("loss", LOSSES, ids=kind_of)
def test_scores_of_detections_are_those_of_the_loss(
    batch: Batch, loss: type[ClassificationLossConfig]
) -> None:
    """Every detection is a decoded box of a proposal, with the score that the loss declares."""
    from hyperfocal.losses import class_scores

    model = small(loss=loss()).eval()
    torch.nn.init.normal_(model.roi_head.cls_logits.weight, std=0.5)
    model.inference.score_threshold = 0.0
    found = model.detect(batch)
    levels, sizes = model.features(batch), image_sizes(batch)
    proposals = model.rpn.propose(model.rpn(levels), model.priors(batch),
                                  [s.valid_hw for s in sizes])  # fmt: skip
    for b, (one, boxes) in enumerate(zip(found, proposals, strict=True)):
        assert 10 < len(one) <= 100
        assert (one.scores.diff() <= 0).all()
        outputs = model.roi_head(levels, boxes, torch.full((len(boxes),), b))
        scores = class_scores(model.loss, outputs.logits)
        assert scores.shape == (len(boxes), K)
        for score, label in zip(one.scores, one.labels, strict=True):
            assert (scores[:, label] - score).abs().min() < 1e-6
        height, width = batch.original_hw[b].tolist()
        assert (one.boxes >= 0).all()
        assert (one.boxes <= torch.tensor([width, height, width, height])).all()


def test_selecting_before_decoding_changes_nothing(batch: Batch) -> None:
    """Against all boxes of all categories, decoded first."""
    model = small().eval()
    torch.nn.init.normal_(model.roi_head.cls_logits.weight, std=0.5)
    found = model.detect(batch)
    levels, sizes = model.features(batch), image_sizes(batch)
    proposals = model.rpn.propose(model.rpn(levels), model.priors(batch),
                                  [s.valid_hw for s in sizes])  # fmt: skip
    for b, (one, boxes) in enumerate(zip(found, proposals, strict=True)):
        outputs = model.roi_head(levels, boxes, torch.full((len(boxes),), b))
        anchors = boxes[:, None].expand(-1, K, 4)
        every = model.roi_head.coder.decode(outputs.deltas, anchors).reshape(-1, 4)
        scores = outputs.logits.softmax(-1)[:, :K].reshape(-1)
        labels = torch.arange(K).repeat(len(boxes))
        kept = scores > model.inference.score_threshold
        want = model.inference.suppress(every[kept], scores[kept], labels[kept], sizes[b])
        torch.testing.assert_close(one.boxes, want.boxes)
        torch.testing.assert_close(one.scores, want.scores)
        assert torch.equal(one.labels, want.labels)


def test_levels_of_rois_are_the_papers() -> None:
    head = small().roi_head
    sides = torch.tensor([1.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 900.0])
    boxes = torch.cat([torch.zeros(8, 2), sides[:, None].expand(8, 2)], dim=1)
    assert head.level_of(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # P2 to P5


def test_pooled_features_are_torchvisions() -> None:
    from torchvision.ops import MultiScaleRoIAlign

    head = small(roi_head=RoIHead.Config(sampling_ratio=2, aligned=False, fc_channels=8)).roi_head
    levels = [torch.randn(2, 32, 256 // s, 320 // s) for s in (4, 8, 16, 32)]
    corners = torch.rand(40, 2) * torch.tensor([200.0, 150.0])
    boxes = torch.cat([corners, corners + 4 + torch.rand(40, 2) * 300], dim=1)
    image = torch.arange(40) % 2
    theirs = MultiScaleRoIAlign(list("0123"), 7, 2)
    want = theirs(dict(zip("0123", levels, strict=True)),
                  [boxes[image == 0], boxes[image == 1]], [(256, 320)] * 2)  # fmt: skip
    got = head.pooled(levels, boxes, image)
    assert_near(got[torch.cat([(image == n).nonzero().squeeze(1) for n in (0, 1)])], want)


# ---------------------------------------------------------------- composition


def test_the_backbone_gets_the_maps_that_the_pyramid_needs() -> None:
    model = small()
    assert len(model.backbone.channels) == 4
    assert model.neck.strides == (4, 8, 16, 32, 64)
    p2 = FPN.Config(channels=32, first_stride=4, num_levels=5)
    dense = RetinaNet.Config(backbone=SMALL, neck=p2).build(2)
    assert len(dense.backbone.channels) == 4
    assert [tuple(m.shape[-2:]) for m in dense.neck(dense.backbone(torch.zeros(1, 3, 64, 96)))] == [
        (16, 24), (8, 12), (4, 6), (2, 3), (1, 2)
    ]  # fmt: skip
    three = RetinaNet.Config(backbone=FasterRCNN.Config(backbone=SMALL).backbone)
    assert three.backbone.first_stride == 8


def test_a_pyramid_refuses_another_number_of_maps() -> None:
    with pytest.raises(ConfigError, match="3 maps, but a pyramid from stride 4 needs"):
        FPN.Config(first_stride=4).build((8, 16, 32))


def test_losses_of_predicted_boxes_are_refused() -> None:
    with pytest.raises(ConfigError, match="only for dense detectors"):
        small(loss=QualityFocalLoss.Config())


def test_the_prior_is_the_initial_probability_of_objects(batch: Batch) -> None:
    from hyperfocal.losses import class_scores

    for loss in OWN_LOGITS:
        head = RoIHead.Config(samples=24, fc_channels=32, prior_probability=0.02)
        model = small(loss=loss(), roi_head=head)
        scores = class_scores(model.loss, model.roi_head.cls_logits.bias)
        assert 0 < float(scores.sum()) <= 0.02 * K + 1e-6
