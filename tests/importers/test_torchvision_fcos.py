"""Weights of torchvision's FCOS give torchvision's detections and losses."""

from __future__ import annotations

import pytest
import torch
import torchvision.models.detection as tv
from torch import Tensor, nn

from hyperfocal.importers.torchvision import import_torchvision
from hyperfocal.models import FCOS
from hyperfocal.types import Batch, Target


@pytest.fixture(scope="module")
def theirs() -> tv.FCOS:
    """Torchvision's detector with random weights whose scores and boxes vary."""
    torch.manual_seed(0)
    model = tv.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=12, min_size=128, max_size=224
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, 0, 0.1)
    for module in model.head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, 0, 0.1)
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.03)
    nn.init.normal_(model.head.classification_head.cls_logits.bias, -3, 0.3)
    nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.03)
    nn.init.constant_(model.head.regression_head.bbox_reg.bias, 2.0)
    nn.init.normal_(model.head.regression_head.bbox_ctrness.weight, std=0.03)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs: tv.FCOS, tmp_path_factory: pytest.TempPathFactory) -> FCOS:
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(theirs.state_dict(), path)
    imported = import_torchvision(path)
    assert len(imported.categories) == 12
    model = imported.config.offline().build(12)
    assert isinstance(model, FCOS)
    model.load_state_dict(imported.state_dict)
    return model.eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Two images of 128 pixels, which torchvision's transform leaves as they are."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 16, 16, generator=generator)
    images = nn.functional.interpolate(coarse, size=(128, 128))
    boxes = torch.tensor([[13.0, 11, 77, 64], [40, 45, 119, 121], [51, 52, 60, 64]])
    target = Target(boxes, torch.tensor([3, 7, 11]))
    hw = torch.full((2, 2), 128)
    return Batch(images, hw, hw, (target, target), (0, 1))


def test_detections_are_torchvisions(theirs: tv.FCOS, ours: FCOS, batch: Batch) -> None:
    with torch.no_grad():
        expected = theirs(list(batch.images))
    for e, f in zip(expected, ours.detect(batch), strict=True):
        assert len(f) == len(e["scores"]) >= 30
        torch.testing.assert_close(f.scores, e["scores"], atol=1e-4, rtol=0)
        # Scores that agree to the last digits may change places, so each of ours finds its twin.
        apart = (f.boxes[:, None] - e["boxes"]).abs().amax(dim=2)
        apart += (f.labels[:, None] != e["labels"]) + (f.scores[:, None] - e["scores"]).abs() * 10
        nearest, twin = apart.min(dim=1)
        assert float(nearest.max()) < 1e-3
        assert len(twin.unique()) == len(twin)


def their_losses(theirs: tv.FCOS, batch: Batch) -> dict[str, Tensor]:
    targets = [{"boxes": t.boxes, "labels": t.labels} for t in batch.targets]
    with torch.no_grad():
        images, _ = theirs.transform(list(batch.images))
        features = list(theirs.backbone(images.tensors).values())
        outputs = theirs.head(features)
        anchors = theirs.anchor_generator(images, features)
        per_level = [f.shape[2] * f.shape[3] for f in features]
        return theirs.compute_loss(targets, outputs, anchors, per_level)


def assert_same_losses(theirs: tv.FCOS, ours: FCOS, batch: Batch) -> None:
    expected = their_losses(theirs, batch)
    with torch.no_grad():
        terms = ours(batch)
    assert terms.positives.item() > 10
    for name, term in (
        ("classification", terms["classification"]),
        ("bbox_regression", terms["box"]),
        ("bbox_ctrness", terms["quality"]),
    ):
        torch.testing.assert_close(term, expected[name], atol=1e-4, rtol=1e-4, msg=name)


def test_losses_are_torchvisions(theirs: tv.FCOS, ours: FCOS, batch: Batch) -> None:
    assert_same_losses(theirs, ours, batch)


@pytest.mark.parametrize("seed", range(8))
def test_losses_are_torchvisions_where_boxes_end_on_the_limits_of_levels(
    theirs: tv.FCOS, ours: FCOS, seed: int
) -> None:
    """Whole-pixel boxes, no resize: a side 64 pixels from a location, the limit of two levels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    images = nn.functional.interpolate(coarse, size=(128, 128))
    corner = torch.randint(0, 8, (3, 2), generator=generator) * 8.0
    size = torch.randint(8, 16, (3, 2), generator=generator) * 8.0
    boxes = torch.cat((corner, (corner + size).clamp(max=128)), dim=1)
    boxes[0] = torch.tensor([4.0, 12, 120, 76]) + 4 * (seed % 2)
    target = Target(boxes, torch.randint(1, 12, (3,), generator=generator))
    hw = torch.full((1, 2), 128)
    batch = Batch(images, hw, hw, (target,), (0,))
    assert_same_losses(theirs, ours, batch)
