"""YOLOX: the loss of its formula, divisions of a step, scores, and parts of other detectors."""

from __future__ import annotations

import math

import pytest
import torch
from tests.close import assert_near
from torch import Tensor, nn

from hyperfocal.losses import EqualizedFocalLoss, EqualizedQualityFocalLoss, SigmoidFocalLoss
from hyperfocal.models import (
    PAFPN,
    YOLOX,
    AnchorGenerator,
    CSPDarknet,
    DecoupledHead,
    ImprovedBaseline,
)
from hyperfocal.models.detector import Detector
from hyperfocal.models.quality import QualityBranch
from hyperfocal.ops import box_iou
from hyperfocal.types import Batch, ConfigError, Target

K = 3
NANO = {
    "backbone": CSPDarknet.Config("nano"),
    "neck": PAFPN.Config(channels=16, depthwise=True),
    "head": DecoupledHead.Config(depth=1, depthwise=True),
}


def detector(**settings: object) -> YOLOX:
    """In eval mode: batch norms in training mode see the micro-batch."""
    torch.manual_seed(0)
    return YOLOX(K, **(NANO | settings)).eval()


def a_batch(number: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (number, 3, 64, 96), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([[64, 96]] * number)
    boxes = torch.tensor([[10.0, 12, 50, 44], [30, 20, 62, 60], [64, 8, 67, 12]])
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    targets = (
        Target(boxes, torch.tensor([2, 0, 1])),
        nothing,
        Target(boxes[:1], torch.tensor([0])),
    )
    return Batch(images, sizes, sizes, targets[:number], tuple(range(number)))


def outputs(model: YOLOX, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in pixels, objectness and classification logits of all priors, one level at a time."""
    found: list[list[Tensor]] = [[], [], []]
    for n, (stride, level) in enumerate(zip((8, 16, 32), model.features(batch), strict=True)):
        head = model.head
        box_map, cls_map = head.box_tower[n](level), head.cls_tower[n](level)
        values = head.box_deltas[n](box_map).permute(0, 2, 3, 1)
        y, x = torch.meshgrid(*(torch.arange(s) for s in level.shape[2:]), indexing="ij")
        center = (values[..., :2] + torch.stack((x, y), dim=-1) + 0.5) * stride
        size = values[..., 2:].exp() * stride
        boxes = torch.cat((center - size / 2, center + size / 2), dim=-1)
        quality = head.quality_logits[n](box_map).permute(0, 2, 3, 1)
        logits = head.cls_logits[n](cls_map).permute(0, 2, 3, 1)
        for values, into in zip((boxes, quality, logits), found, strict=True):
            into.append(values.flatten(1, 2))
    boxes, quality, logits = (torch.cat(levels, dim=1) for levels in found)
    return boxes, quality.squeeze(2), logits


def test_loss_is_that_of_the_formula() -> None:
    model, batch = detector(), a_batch()
    terms = model(batch)
    boxes, quality, logits = outputs(model, batch)
    labels = model.samples(batch).labels
    assignment = model.criterion.positives(
        model.head,
        model.features(batch),
        model.head.cls_maps(model.features(batch)),
        model.truth(batch),
    ).assignment
    positive = assignment.positives(K)
    assert torch.equal(positive, labels >= 0)
    assert positive.sum(dim=1).tolist()[1] == 0
    number = int(positive.sum())
    assert number == terms.positives > 3
    entropy = nn.functional.binary_cross_entropy_with_logits
    objectness = entropy(quality, positive.float(), reduction="sum")
    classification = box = torch.zeros(())
    for b, a in positive.nonzero().tolist():
        truth = batch.targets[b].boxes[assignment.gt_index[b, a]]
        iou = box_iou(boxes[b, a][None], truth[None])[0, 0]
        wanted = torch.zeros(K)
        wanted[labels[b, a]] = iou.detach()
        classification = classification + entropy(logits[b, a], wanted, reduction="sum")
        box = box + 1 - iou**2
    assert_near(terms["quality"], objectness / number)
    assert_near(terms["classification"], classification / number)
    assert_near(terms["box"], 5 * box / number)


@pytest.mark.parametrize(
    "loss",
    [
        None,
        SigmoidFocalLoss.Config(),
        EqualizedFocalLoss.Config(scale=4.0),
        EqualizedQualityFocalLoss.Config(scale=4.0),
    ],
)
def test_micro_batches_give_the_gradients_of_the_batch(loss: object) -> None:
    model = detector() if loss is None else detector(loss=loss)
    batch, parts = a_batch(), (slice(0, 1), slice(1, 3))
    model(batch).total.backward()
    whole = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    divisors = model.divisors(batch, parts)
    for part in parts:
        model.loss_terms(batch[part], divisors[part]).total.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert_near(p.grad, whole[name], of_largest=1e-5)


def test_no_boxes_train_objectness_alone() -> None:
    model, batch = detector(), a_batch()[slice(1, 2)]
    terms = model(batch)
    assert terms["classification"] == terms["box"] == 0
    assert terms["quality"] > 0
    terms.total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_classification_and_objectness_start_at_the_prior() -> None:
    model = detector(head=DecoupledHead.Config(depth=1, prior_probability=0.001))
    _boxes, _quality, _logits = outputs(model, a_batch())
    for bias in (*model.head.cls_logits, *model.head.quality_logits):
        torch.testing.assert_close(bias.bias, torch.full_like(bias.bias, math.log(1 / 999)))


def test_detections_are_the_best_products_of_class_and_objectness() -> None:
    model, batch = detector(), a_batch()
    for layer in (*model.head.cls_logits, *model.head.quality_logits):
        nn.init.normal_(layer.weight, std=0.5)
        nn.init.zeros_(layer.bias)
    model.inference.nms_iou, model.inference.score_threshold = 1.0, 0.2
    _boxes, quality, logits = outputs(model, batch)
    scores = logits.sigmoid() * quality.sigmoid()[..., None]
    for found, own in zip(model.detect(batch), scores, strict=True):
        wanted = own.flatten()[own.flatten() > 0.2].sort(descending=True).values[:100]
        assert len(wanted) > 10
        assert_near(found.scores[: len(wanted)], wanted)


def test_the_released_efl_settings_are_the_improved_baseline_on_its_networks() -> None:
    torch.manual_seed(0)
    model: Detector = ImprovedBaseline(
        **NANO,
        anchors=AnchorGenerator.Config((3.0, 4.0), 1, (1.0,), center_offset=0.5),
        loss=EqualizedFocalLoss.Config(scale=4.0),
    ).build(K)
    terms = model(a_batch())
    terms.total.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(model.eval().detect(a_batch())[0]) > 0


def test_other_quality_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"quality = .* must be a branch with target object"):
        YOLOX.Config(quality=QualityBranch(target="iou"))
    with pytest.raises(ConfigError, match=r"weigh_boxes = True.* must be off with target object"):
        QualityBranch(target="object")
