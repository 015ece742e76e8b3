"""Detectors as a user builds and calls them in a training loop of their own."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperfocal
from hyperfocal.losses import EqualizedFocalLoss, SigmoidFocalLoss
from hyperfocal.models import FCOS, Backbone, DenseDetector, RetinaNet
from hyperfocal.models.detector import Detector
from hyperfocal.types import Batch, ConfigError, DataError, Target

SMALL = Backbone.Config("test_resnet", pretrained=False)


def images_and_targets(kind: type = torch.Tensor) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, h, w, generator=generator) for h, w in ((64, 96), (80, 64))]
    boxes = [torch.tensor([[10.0, 10, 50, 40], [30, 20, 60, 60]]), torch.zeros(0, 4)]
    labels = [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.int64)]
    return images, [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]


@pytest.mark.parametrize(
    "kind", [c for c in DenseDetector.__subclasses__() if c.__module__.startswith("hyperfocal.")]
)
def test_a_plain_loop_learns_and_detects_like_torchvisions(kind: type[Any]) -> None:
    torch.manual_seed(0)
    model = kind(num_classes=3, backbone=SMALL)
    model.resize = None
    images, targets = images_and_targets()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    totals = []
    for _ in range(6):
        losses = model(images, targets)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        model.step()
        totals.append(float(total.detach()))
    assert totals[-1] < totals[0]
    model.eval()
    model.inference.score_threshold = 0.0
    found = model(images)
    assert [set(f) for f in found] == [{"boxes", "scores", "labels"}] * 2
    for one, image in zip(found, images, strict=True):
        assert one["boxes"].shape == (len(one["scores"]), 4)
        assert len(one["boxes"]) > 20
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"][:, 2] <= image.shape[2]).all()
        assert (one["boxes"][:, 3] <= image.shape[1]).all()
        assert one["labels"].min() >= 0
        assert one["labels"].max() < 3


def test_lists_give_the_losses_of_a_batch() -> None:
    model = RetinaNet(num_classes=3, backbone=SMALL)
    model.resize = None
    images, targets = images_and_targets()
    padded = torch.zeros(2, 3, 96, 96)
    for n, image in enumerate(images):
        padded[n, :, : image.shape[1], : image.shape[2]] = image
    sizes = torch.tensor([[64, 96], [80, 64]])
    truth = tuple(Target(t["boxes"], t["labels"]) for t in targets)
    terms = model(Batch(padded, sizes, sizes, truth, (0, 1)))
    losses = model(images, targets)
    torch.testing.assert_close(sum(losses.values()), terms.total)
    torch.testing.assert_close(losses["box"], terms["box"])


def test_images_are_resized_and_boxes_come_back_in_their_pixels() -> None:
    torch.manual_seed(0)
    model = FCOS(num_classes=3, backbone=SMALL).eval()
    model.inference.score_threshold = 0.0
    model.resize = (128, 160)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2:]))
    (found,) = model([torch.rand(3, 40, 80)])
    assert seen == [torch.Size([96, 160])]  # 80x160, padded to a multiple of 32
    assert found["boxes"][:, 2].max() > 40
    assert found["boxes"].max() <= 80


def test_modules_are_used_as_they_are() -> None:
    class Doubled(SigmoidFocalLoss):
        def forward(self, logits: Tensor, labels: Tensor, normalizer: Any = 1.0) -> Tensor:
            return 2 * super().forward(logits, labels, normalizer)

    torch.manual_seed(0)
    plain = RetinaNet(num_classes=3, backbone=SMALL, loss=SigmoidFocalLoss())
    mine = Doubled()
    doubled = RetinaNet(num_classes=3, backbone=SMALL, loss=mine)
    assert doubled.loss is mine
    doubled.load_state_dict(copy.deepcopy(plain.state_dict()))
    plain.resize = doubled.resize = None
    once, twice = plain(*images_and_targets()), doubled(*images_and_targets())
    torch.testing.assert_close(twice["classification"], 2 * once["classification"])
    torch.testing.assert_close(twice["box"], once["box"])
    backbone = SMALL.build()
    assert RetinaNet(num_classes=3, backbone=backbone).backbone is backbone
    assert RetinaNet(num_classes=3, backbone=SMALL, box_weight=0.5).criterion.box_weight == 0.5


def test_step_folds_in_the_memory_of_a_loss_once() -> None:
    model = RetinaNet(num_classes=3, backbone=SMALL, loss=EqualizedFocalLoss.Config())
    model.resize = None
    before = [b.clone() for b in model.loss.buffers()]
    model(*images_and_targets())
    alone = copy.deepcopy(model.loss)
    model.step()
    alone.step()
    for mine, theirs in zip(model.loss.buffers(), alone.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.loss.buffers(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, t: (i, t[:1]), "2 images, but 1 targets"),
        (lambda i, t: (i, None), "training mode needs targets"),
        (lambda i, t: ([i[0][:2], i[1]], t), r"images\[0\]: shape \(2, 64, 96\)"),
        (lambda i, t: (i, [{"boxes": t[0]["boxes"]}, t[1]]), r"targets\[0\]: expected a dict"),
        (
            lambda i, t: (i, [{**t[0], "labels": torch.tensor([1, 3])}, t[1]]),
            r"targets\[0\]: labels from 1 to 3, but they must be in 0..2",
        ),
        (
            lambda i, t: (i, [{**t[0], "boxes": t[0]["boxes"].flip(1)}, t[1]]),
            "a box without area",
        ),
    ],
)
def test_wrong_images_and_targets_are_named(change: Any, message: str) -> None:
    model = RetinaNet(num_classes=3, backbone=SMALL)
    with pytest.raises(DataError, match=message):
        model(*change(*images_and_targets()))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no setting .backbon. .did you mean .backbone."):
        RetinaNet(num_classes=3, backbon="resnet18")
    with pytest.raises(ConfigError, match="mining can't be a module"):
        RetinaNet(num_classes=3, mining=nn.Identity())
    with pytest.raises(ConfigError, match="a model of timm"):
        RetinaNet(num_classes=3, backbone="resnet1")


def test_the_torchvision_loop_of_the_examples_learns() -> None:
    path = Path(__file__).parents[2] / "examples" / "torchvision_loop.py"
    main = runpy.run_path(str(path))["main"]
    assert main(epochs=5) > 0.2  # the prior probability of an object is 0.01


def test_detectors_are_public() -> None:
    assert hyperfocal.RetinaNet is RetinaNet
    assert issubclass(hyperfocal.FCOS, Detector)
