"""Every function that takes a path accepts a string as well as a Path."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfocal import config
from hyperfocal.data import Split, read_annotations, read_image
from hyperfocal.data.formats.openimages_split import OpenImagesFiles
from hyperfocal.evaluation import read_results, write_results
from hyperfocal.experiment import Experiment, TrainConfig
from hyperfocal.figures import draw_detections, training_curves
from hyperfocal.inspection import find_splits
from hyperfocal.models import Backbone
from hyperfocal.types import AnnotationSet, Detections

FOUND = Detections(torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([0.5]), torch.tensor([0]))


def read(name: Callable[[Path], Any], synthetic: Path) -> AnnotationSet:
    return read_annotations(name(synthetic / "train.json"), name(synthetic / "train"), check="none")


def results(name: Callable[[Path], Any], synthetic: Path, out: Path) -> dict[int, Detections]:
    annotations = read(name, synthetic)
    write_results(name(out / "results.json"), {annotations.images[0].id: FOUND}, annotations)
    return read_results(name(out / "results.json"), annotations)


def weights(name: Callable[[Path], Any], synthetic: Path, out: Path) -> dict[str, Tensor]:
    torch.manual_seed(0)
    given = Backbone.Config("test_resnet", pretrained=False).build().net.state_dict()
    torch.save(given, out / "weights.pth")
    loaded = Backbone.Config("test_resnet", weights=name(out / "weights.pth")).build()
    return loaded.net.state_dict()


def picture(name: Callable[[Path], Any], synthetic: Path, out: Path) -> bytes:
    image = read_image(name(next((synthetic / "train").iterdir())))
    draw_detections(image, FOUND, ("a",), name(out / "new" / "found.png"))
    return (out / "new" / "found.png").read_bytes()


def curves(name: Callable[[Path], Any], synthetic: Path, out: Path) -> bytes:
    log = '{"kind": "step", "step": 1, "loss": 1.0, "classification": 1.0, "lr": 0.1}\n'
    (out / "metrics.jsonl").write_text(log, encoding="utf-8")
    training_curves(name(out), name(out / "new" / "curves.png"))
    return (out / "new" / "curves.png").read_bytes()


def experiment(name: Callable[[Path], Any], synthetic: Path, out: Path) -> Experiment:
    plain = Experiment(TrainConfig(iterations=1), out=out / "run")
    file = out / "config.json"
    file.write_text(json.dumps(config.dump(plain)), encoding="utf-8")
    assert config.load_file(Experiment, name(file)) == plain
    return Experiment(TrainConfig(iterations=1), out=name(out / "run"))


USES: dict[str, Callable[[Callable[[Path], Any], Path, Path], Any]] = {
    "annotations": lambda name, synthetic, out: repr(read(name, synthetic)),
    "results": results,
    "splits": lambda name, synthetic, out: find_splits(name(synthetic)),
    "a split's files": lambda name, synthetic, out: Split(*[name(out / x) for x in "abcde"]),
    "Open Images": lambda name, synthetic, out: OpenImagesFiles(*[name(out / x) for x in "abc"]),
    "weights": weights,
    "pictures": picture,
    "curves": curves,
    "experiment": experiment,
}


@pytest.mark.filterwarnings("ignore:.*results for 1 of:hyperfocal.types.HyperfocalWarning")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_string_does_what_a_path_does(use: Any, synthetic: Path, tmp_path: Path) -> None:
    assert plain(use(str, synthetic, tmp_path)) == plain(use(Path, synthetic, tmp_path))


def plain(value: Any) -> Any:
    """Tensors as lists, for ==."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Detections):
        return [plain(part) for part in (value.boxes, value.scores, value.labels)]
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    return value
