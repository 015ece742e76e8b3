"""Weights of torchvision's RetinaNets give torchvision's detections and losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision.models.detection as tv
from torch import Tensor, nn

from hyperfocal.importers.torchvision import Imported, import_torchvision
from hyperfocal.models import Backbone, RetinaNet
from hyperfocal.types import Batch, ConfigError, Target

MODELS = {"v1": tv.retinanet_resnet50_fpn, "v2": tv.retinanet_resnet50_fpn_v2}
SIZES = ((171, 260), (240, 150))
"""Original (height, width); after the resize P7's rows don't divide the padded image."""


@pytest.fixture(scope="module", params=["v1", "v2"])
def theirs(request: pytest.FixtureRequest) -> tv.RetinaNet:
    """Torchvision's detector with random weights whose scores and boxes vary."""
    torch.manual_seed(0)
    model = MODELS[request.param](
        weights=None, weights_backbone=None, num_classes=12, min_size=128, max_size=224
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, 0, 0.1)
    head = model.head
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    nn.init.normal_(head.classification_head.cls_logits.weight, std=0.02)
    nn.init.normal_(head.classification_head.cls_logits.bias, -3, 0.3)
    nn.init.normal_(head.regression_head.bbox_reg.weight, std=0.003)
    return model


@pytest.fixture(scope="module")
def imported(theirs: tv.RetinaNet, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(theirs.state_dict(), path)
    return import_torchvision(path)


@pytest.fixture(scope="module")
def ours(imported: Imported) -> RetinaNet:
    model = imported.config.offline().build(len(imported.categories))
    model.load_state_dict(imported.state_dict)
    return model


def draw(height: int, width: int, seed: int) -> Tensor:
    """A float image in [0, 1] with edges, flat areas and texture."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, height, width, generator=generator) * 0.2
    for _ in range(12):
        y, x = (int(torch.randint(0, s - 20, (), generator=generator)) for s in (height, width))
        h, w = (int(torch.randint(10, 90, (), generator=generator)) for _ in range(2))
        image[:, y : y + h, x : x + w] += torch.rand(3, 1, 1, generator=generator) * 0.5
    return image.clamp(0, 1)


def targets_for(height: int, width: int) -> Target:
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.5], [0.3, 0.35, 0.9, 0.95], [0.4, 0.4, 0.47, 0.5]])
    boxes = boxes * torch.tensor([width, height, width, height])
    return Target(boxes, torch.tensor([3, 7, 11]))


def our_batch(theirs: tv.RetinaNet, images: list[Tensor], targets: list[Target]) -> Batch:
    """The same resized pixels that torchvision's transform makes, padded but not normalised."""
    resize = theirs.transform.resize
    resized = [
        resize(image, {"boxes": target.boxes})
        for image, target in zip(images, targets, strict=True)
    ]
    hw = torch.tensor([image.shape[-2:] for image, _ in resized])
    padded = torch.zeros(len(images), 3, *hw.max(dim=0).values.tolist())
    for slot, (image, _) in zip(padded, resized, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return Batch(
        padded,
        hw,
        torch.tensor([image.shape[-2:] for image in images]),
        tuple(Target(r["boxes"], t.labels) for (_, r), t in zip(resized, targets, strict=True)),
        tuple(range(len(images))),
    )


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return [draw(*hw, seed) for seed, hw in enumerate(SIZES)]


@pytest.fixture(scope="module")
def batch(theirs: tv.RetinaNet, images: list[Tensor]) -> Batch:
    return our_batch(theirs, images, [targets_for(*hw) for hw in SIZES])


@pytest.mark.slow
def test_detections_are_torchvisions(
    theirs: tv.RetinaNet,
    ours: RetinaNet,
    images: list[Tensor],
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = theirs.detections_per_img
    monkeypatch.setattr(theirs, "detections_per_img", 100_000)
    with torch.no_grad():
        everything = theirs.eval()(images)
    found = ours.eval().detect(batch)
    for every, f in zip(everything, found, strict=True):
        # torchvision also keeps boxes without area; they detect nothing and take others' places.
        full = ((every["boxes"][:, 2:] - every["boxes"][:, :2]) > 0).all(dim=1)
        e = {name: values[full][:most] for name, values in every.items()}
        assert len(f) == len(e["scores"]) >= 50
        assert len(f.labels.unique()) > 1
        torch.testing.assert_close(f.scores, e["scores"], atol=1e-4, rtol=0)
        # Scores that agree to the last digits may change places, so each of ours finds its twin.
        apart = (f.boxes[:, None] - e["boxes"]).abs().amax(dim=2)
        apart += (f.labels[:, None] != e["labels"]) + (f.scores[:, None] - e["scores"]).abs() * 10
        nearest, twin = apart.min(dim=1)
        assert float(nearest.max()) < 1e-3
        assert len(twin.unique()) == len(twin)


@pytest.mark.slow
def test_losses_are_torchvisions(
    theirs: tv.RetinaNet, ours: RetinaNet, images: list[Tensor], batch: Batch
) -> None:
    # The losses of the mode that leaves running statistics alone: both in eval mode, inside.
    theirs.eval()
    features = list(theirs.backbone(padded(theirs, batch)).values())
    outputs = theirs.head(features)
    image_list = tv.image_list.ImageList(
        padded(theirs, batch), [tuple(hw) for hw in batch.valid_hw.tolist()]
    )
    anchors = theirs.anchor_generator(image_list, features)
    targets = [{"boxes": t.boxes, "labels": t.labels} for t in batch.targets]
    expected = theirs.compute_loss(targets, outputs, anchors)

    terms = ours.eval()(batch)
    assert expected["bbox_regression"].item() > 0.01
    torch.testing.assert_close(
        terms["classification"], expected["classification"], atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(terms["box"], expected["bbox_regression"], atol=1e-4, rtol=1e-5)


def padded(theirs: tv.RetinaNet, batch: Batch) -> Tensor:
    """What torchvision's backbone sees: normalised, zero outside the images, 32-aligned."""
    images = [
        theirs.transform.normalize(image[:, :h, :w])
        for image, (h, w) in zip(batch.images, batch.valid_hw.tolist(), strict=True)
    ]
    return theirs.transform.batch_images(images, 32)


def test_version_is_read_off_the_tensors(theirs: tv.RetinaNet, imported: Imported) -> None:
    is_v2 = imported.config.head.norm == "gn"
    assert is_v2 == (theirs.head.regression_head._loss_type == "giou")
    assert imported.config.box_loss.kind == ("giou" if is_v2 else "smooth_l1")
    assert imported.config.neck.extra_source == ("c5" if is_v2 else "p5")
    assert [c.id for c in imported.categories] == list(range(12))


def test_old_key_names_and_frozen_norms_of_the_published_file(
    tmp_path: Path, theirs: tv.RetinaNet
) -> None:
    """The published v1 file: flat names, no counters in the norms, written without epsilon."""
    if theirs.head.regression_head._loss_type == "giou":
        pytest.skip("v2 never had the old names")
    old = {}
    for key, value in theirs.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        parts = key.split(".")
        if ".conv." in key and key.startswith("head."):
            parts = [*parts[:3], str(2 * int(parts[3])), parts[5]]
        if "inner_blocks" in key or "layer_blocks" in key:
            parts = [*parts[:4], parts[5]]
        old[".".join(parts)] = value
    torch.save(old, tmp_path / "old.pth")
    imported = import_torchvision(tmp_path / "old.pth")
    assert imported.config.backbone.norm_eps == 0.0
    assert imported.config.backbone.freezes_norms
    model = imported.config.offline().build(12)
    model.load_state_dict(imported.state_dict)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(n.eps == 0.0 and not n.training for n in norms)
    tower = imported.state_dict["head.cls_tower.6.weight"]
    assert torch.equal(tower, theirs.head.classification_head.conv[3][0].weight)


def test_coco_head_has_coco_ids(tmp_path: Path) -> None:
    model = tv.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "coco.pth")
    categories = import_torchvision(tmp_path / "coco.pth").categories
    names = {c.id: c.name for c in categories}
    assert len(categories) == 91
    assert (names[1], names[18], names[90]) == ("person", "dog", "toothbrush")


def test_other_files_are_refused(tmp_path: Path, theirs: tv.RetinaNet) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(ConfigError, match="no such weights file"):
        import_torchvision(path)
    torch.save(Backbone.Config("resnet18", pretrained=False).build().state_dict(), path)
    with pytest.raises(ConfigError, match="not a RetinaNet, FCOS or Faster R-CNN of torchvision"):
        import_torchvision(path)
    state = dict(theirs.state_dict())
    del state["backbone.body.layer4.0.conv2.weight"]
    torch.save(state, path)
    with pytest.raises(ConfigError, match="lacks 1 tensor"):
        import_torchvision(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match="not a readable weights file"):
        import_torchvision(path)
