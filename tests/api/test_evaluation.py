"""`hyperfocal.evaluate`: runs, results files, functions and detections give one set of metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.api.conftest import Squares
from torch import Tensor

import hyperfocal
from hyperfocal.data import read_annotations
from hyperfocal.evaluation.results import write_results
from hyperfocal.types import ConfigError, DataError, Detections


@pytest.fixture
def split(synthetic: Path) -> tuple[Path, Path]:
    return synthetic / "val.json", synthetic / "val"


@pytest.fixture
def found(split: tuple[Path, Path]) -> dict[int, Detections]:
    """Ground truth with noise, some of it missing."""
    generator = torch.Generator().manual_seed(0)
    out = {}
    for record in read_annotations(*split, split="val").images:
        boxes = torch.from_numpy(record.boxes).float()
        boxes += torch.randn(boxes.shape, generator=generator)
        scores = torch.rand(len(boxes), generator=generator)
        out[record.id] = Detections(boxes[:-1], scores[:-1], torch.from_numpy(record.labels)[:-1])
    return out


def test_every_source_gives_the_same_metrics(
    split: tuple[Path, Path], found: dict[int, Detections], synthetic: Path, tmp_path: Path
) -> None:
    annotations = read_annotations(*split, split="val")
    write_results(tmp_path / "results.json", found, annotations)
    order = iter(annotations.images)

    def detect(images: list[Tensor]) -> list[dict[str, Tensor]]:
        out = []
        for image in images:
            record = next(order)
            assert image.dtype == torch.uint8
            assert image.shape == (3, record.height, record.width)
            one = found[record.id]
            out.append({"boxes": one.boxes, "scores": one.scores, "labels": one.labels})
        return out

    train = (synthetic / "train.json", synthetic / "train")
    options: dict[str, Any] = {"train": train, "verbose": False}
    by_id = hyperfocal.evaluate(found, split, **options)
    assert 0 < by_id.metrics["AP"] < 1
    assert by_id.metrics["APr"] > 0 or by_id.metrics["APc"] > 0 or by_id.metrics["APf"] > 0
    by_file = hyperfocal.evaluate(tmp_path / "results.json", split, **options)
    by_function = hyperfocal.evaluate(detect, split, batch_size=3, **options)
    in_memory = hyperfocal.evaluate(found, annotations, **options)
    for other in (by_file, by_function, in_memory):
        assert other.metrics == pytest.approx(by_id.metrics, nan_ok=True, abs=1e-6)
    assert annotations.categories[0].name in by_id._repr_html_()


def test_a_run_is_measured_as_after_its_training(tmp_path: Path, tiny: dict[str, Any]) -> None:
    val = Squares(4)
    run = hyperfocal.train(
        "demo",
        train=Squares(16),
        val=val,
        categories=["red", "orange"],
        out=tmp_path / "run",
        settings=tiny | {"train.iterations": 16},
        verbose=False,
    )
    assert run.metrics["AP50"] > 0
    for what in (run, run.path, str(run.path)):
        again = hyperfocal.evaluate(what, val, verbose=False)
        assert again.metrics == pytest.approx(run.metrics, nan_ok=True)


def test_what_cannot_be_measured_is_named(
    split: tuple[Path, Path], found: dict[int, Detections], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="nowhere: no such run folder or results file"):
        hyperfocal.evaluate(tmp_path / "nowhere", split, verbose=False)
    with pytest.raises(ConfigError, match=r"expected a run, a results file, .* found int"):
        hyperfocal.evaluate(3, split, verbose=False)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="returned 1 results for 8 images"):
        hyperfocal.evaluate(lambda images: [{}], split, verbose=False)
    with pytest.raises(DataError, match=r"image id .*: expected Detections or a dict"):
        hyperfocal.evaluate(lambda images: [{} for _ in images], split, verbose=False)
    (tmp_path / "file.json").write_text(json.dumps([{"image_id": 99}]))
    with pytest.raises(DataError, match="image_id 99"):
        hyperfocal.evaluate(tmp_path / "file.json", split, verbose=False)
