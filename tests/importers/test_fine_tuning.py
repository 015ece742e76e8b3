"""A run imported from torchvision is a detector to fine-tune, and a recipe for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision.models.detection as tv

from hyperfocal.fine_tuning.transfer import build_detector
from hyperfocal.importers import import_torchvision, write_imported
from hyperfocal.recipes import load_recipe
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import Batch, Category, CategoryCounts, ConfigError, Target

NAMES = ["category 3", "screw", "category 1"]
CATEGORIES = tuple(Category(n, name) for n, name in enumerate(NAMES))
COUNTS = CategoryCounts((5,) * 3, (9,) * 3, 20)
CONFIGS = {"retinanet": tv.retinanet_resnet50_fpn, "fcos": tv.fcos_resnet50_fpn}


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_an_imported_detector_is_fine_tuned_by_its_own_recipe(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    theirs = CONFIGS[kind](weights=None, weights_backbone=None, num_classes=5)
    torch.nn.init.normal_(theirs.head.classification_head.cls_logits.bias, -3, 1.0)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    run = RunFolder(tmp_path / "tv")
    imported = import_torchvision(tmp_path / "weights.pth")
    write_imported(imported, run)
    source = imported.config.offline().build(5)
    source.load_state_dict(imported.state_dict)
    plan = load_recipe(str(run.path))
    model, taken = build_detector(plan.model, CATEGORIES, COUNTS)
    assert taken is not None
    assert taken.kept == ("category 3", "category 1")
    assert taken.new == ("screw",)
    assert not taken.settings
    assert {n for n in taken.left if not n.startswith("head.cls_logits")} == set()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    batch = Batch(image, torch.tensor([[64, 64]]), torch.tensor([[64, 64]]), (nothing,), (1,))
    outputs = []
    with torch.no_grad():
        for detector in (model.eval(), source.eval()):
            outputs.append(detector.head(detector.features(batch)))
    own, its = outputs
    torch.testing.assert_close(own.cls[..., [0, 2]], its.cls[..., [3, 1]])
    torch.testing.assert_close(own.box, its.box)
    config = dataclasses.replace(plan.model, weights=tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="hyperfocal import torchvision"):
        build_detector(config, CATEGORIES, COUNTS)
