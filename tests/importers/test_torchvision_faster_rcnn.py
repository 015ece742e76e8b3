"""Weights of torchvision's Faster R-CNNs give torchvision's detections, losses and gradients."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision.models.detection as tv
from tests.close import assert_near
from tests.importers.test_torchvision import draw, our_batch, padded, targets_for
from torch import Tensor, nn

from hyperfocal.importers.torchvision import Imported, import_torchvision
from hyperfocal.models import FasterRCNN, roi_head, rpn
from hyperfocal.types import Batch, ConfigError, Target

MODELS = {"v1": tv.fasterrcnn_resnet50_fpn, "v2": tv.fasterrcnn_resnet50_fpn_v2}
SIZES = ((171, 260), (240, 150))


@pytest.fixture(scope="module", params=["v1", "v2"])
def theirs(request: pytest.FixtureRequest) -> tv.FasterRCNN:
    """Torchvision's detector with random weights whose proposals, scores and boxes vary."""
    torch.manual_seed(0)
    model = MODELS[request.param](
        weights=None, weights_backbone=None, num_classes=12, min_size=96, max_size=160
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, 0, 0.1)
    nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.05)
    nn.init.normal_(model.rpn.head.bbox_pred.weight, std=0.01)
    predictor = model.roi_heads.box_predictor
    nn.init.normal_(predictor.cls_score.weight, std=0.02)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.05)
    model.roi_heads.score_thresh = 0.02
    # Fewer proposals and RoIs, for speed.
    model.rpn._pre_nms_top_n = model.rpn._post_nms_top_n = {"training": 200, "testing": 200}
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 64
    return model


@pytest.fixture(scope="module")
def imported(theirs: tv.FasterRCNN, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(theirs.state_dict(), path)
    return import_torchvision(path)


@pytest.fixture(scope="module")
def ours(imported: Imported) -> FasterRCNN:
    model = imported.config.offline().build(len(imported.categories))
    model.load_state_dict(imported.state_dict)
    model.inference.score_threshold = 0.02
    model.rpn.settings = dataclasses.replace(
        model.rpn.settings, pre_nms=200, proposals=200, train_pre_nms=200, train_proposals=200
    )
    model.roi_head.settings = dataclasses.replace(model.roi_head.settings, samples=64)
    return model


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return [draw(*hw, seed) for seed, hw in enumerate(SIZES)]


@pytest.fixture(scope="module")
def batch(theirs: tv.FasterRCNN, images: list[Tensor]) -> Batch:
    targets = [targets_for(*hw) for hw in SIZES]
    return our_batch(theirs, images, [Target(t.boxes, t.labels - 1) for t in targets])


def test_proposals_are_torchvisions(theirs: tv.FasterRCNN, ours: FasterRCNN, batch: Batch) -> None:
    pixels = padded(theirs, batch)
    with torch.no_grad():
        features = theirs.eval().backbone(pixels)
        sizes = [(hw[0], hw[1]) for hw in batch.valid_hw.tolist()]
        expected, _ = theirs.rpn(tv.image_list.ImageList(pixels, sizes), features)
        levels = ours.eval().features(batch)
        found = ours.rpn.propose(ours.rpn(levels), ours.priors(batch), sizes)
    for level, theirs_level in zip(levels, features.values(), strict=True):
        assert_near(level, theirs_level, of_largest=1e-5)
    for mine, their in zip(found, expected, strict=True):
        assert len(mine) == len(their) >= 50
        assert float((mine[:, None] - their).abs().amax(dim=2).min(dim=1).values.max()) < 1e-3


@pytest.mark.slow
def test_detections_are_torchvisions(
    theirs: tv.FasterRCNN,
    ours: FasterRCNN,
    images: list[Tensor],
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(theirs.roi_heads, "detections_per_img", 1000)
    monkeypatch.setattr(ours.inference, "max_detections", 1000)
    with torch.no_grad():
        everything = theirs.eval()(images)
    found = ours.eval().detect(batch)
    for e, f in zip(everything, found, strict=True):
        # torchvision drops boxes narrower than 0.01 pixels before suppression, this package those
        # without area.
        wide, their_wide = (
            ((b[:, 2:] - b[:, :2]) > 0.05).all(dim=1) for b in (f.boxes, e["boxes"])
        )
        boxes, scores, labels = f.boxes[wide], f.scores[wide], f.labels[wide]
        e = {name: values[their_wide] for name, values in e.items()}
        assert len(scores) == len(e["scores"]) >= 50
        assert len(labels.unique()) > 1
        # Scores that agree to the last digits may change places, so each of ours finds its twin.
        apart = (boxes[:, None] - e["boxes"]).abs().amax(dim=2)
        apart += labels[:, None] + 1 != e["labels"]
        apart += (scores[:, None] - e["scores"]).abs() * 10
        nearest, twin = apart.min(dim=1)
        assert float(nearest.max()) < 1e-3
        assert len(twin.unique()) == len(twin)


@pytest.fixture
def first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both libraries sample the first positives and negatives instead of random ones."""
    monkeypatch.setattr(torch, "randperm", lambda n, device=None: torch.arange(n, device=device))
    whole = rpn.sample_balanced

    def first(labels: Tensor, k: int, number: int, fraction: float, generator: object) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(torch, "rand", lambda n, generator=None: torch.arange(n))
            return whole(labels, k, number, fraction)

    monkeypatch.setattr(rpn, "sample_balanced", first)
    monkeypatch.setattr(roi_head, "sample_balanced", first)


@pytest.mark.slow
def test_losses_and_gradients_are_torchvisions(
    theirs: tv.FasterRCNN, ours: FasterRCNN, images: list[Tensor], batch: Batch, first_ones: None
) -> None:
    targets = [targets_for(*hw) for hw in SIZES]
    theirs.train()
    ours.train()
    for module in [*theirs.modules(), *ours.modules()]:
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    expected = theirs(images, [{"boxes": t.boxes, "labels": t.labels} for t in targets])
    terms = ours.loss_terms(batch)
    names = {
        "classification": "loss_classifier",
        "box": "loss_box_reg",
        "rpn_classification": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
    }
    for mine, their in names.items():
        assert float(expected[their]) > 0.005
        assert_near(terms[mine], expected[their], rtol=1e-4)
    terms.total.backward()
    sum(expected.values()).backward()
    pairs = {
        "rpn.objectness.weight": theirs.rpn.head.cls_logits.weight.grad,
        "rpn.deltas.weight": theirs.rpn.head.bbox_pred.weight.grad,
        "roi_head.layers.0.weight": next(
            p.grad for p in theirs.roi_heads.box_head.parameters() if p.ndim == 2
        ),
        "roi_head.box_deltas.weight": theirs.roi_heads.box_predictor.bbox_pred.weight.grad[4:],
        "backbone.net.layer4.2.conv3.weight": theirs.backbone.body.layer4[2].conv3.weight.grad,
    }
    own = dict(ours.named_parameters())
    for name, gradient in pairs.items():
        off = float((own[name].grad - gradient).norm())
        assert off < 1e-3 * float(gradient.norm()), name
    logits = theirs.roi_heads.box_predictor.cls_score.weight.grad
    assert_near(own["roi_head.cls_logits.weight"].grad, torch.cat([logits[1:], logits[:1]]),
                of_largest=1e-4)  # fmt: skip


def test_categories_and_settings_are_torchvisions(
    theirs: tv.FasterRCNN, imported: Imported
) -> None:
    assert [c.id for c in imported.categories] == list(range(1, 12))
    is_v2 = isinstance(theirs.roi_heads.box_head, tv.faster_rcnn.FastRCNNConvFCHead)
    assert imported.config.roi_head.conv_layers == (4 if is_v2 else 0)
    assert imported.config.neck.norm == ("bn" if is_v2 else "none")


def test_old_files_have_frozen_norms_without_epsilon(theirs: tv.FasterRCNN, tmp_path: Path) -> None:
    if not isinstance(theirs.roi_heads.box_head, tv.faster_rcnn.TwoMLPHead):
        pytest.skip("the newer version has no old files")
    old = {
        key.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for key, value in theirs.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(old, tmp_path / "old.pth")
    backbone = import_torchvision(tmp_path / "old.pth").config.backbone
    assert (backbone.norm, backbone.norm_eps) == ("frozen", 0.0)


def test_other_tensors_are_refused(theirs: tv.FasterRCNN, tmp_path: Path) -> None:
    state = theirs.state_dict()
    state["roi_heads.mask_head.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "mask.pth")
    with pytest.raises(ConfigError, match=r"unknown 1 .*roi_heads\.mask_head"):
        import_torchvision(tmp_path / "mask.pth")
