"""A dataset of two splits, into which tests introduce faults."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hyperfocal.experiment import Experiment
from hyperfocal.inspection import Decode, Examination, Finding, examine, find_splits
from hyperfocal.recipes import load_recipe


def blobs(height: int, width: int, seed: int) -> np.ndarray:
    """A random smooth image; different seeds look different."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


class TwoSplits:
    """COCO files ``train.json`` (20 images) and ``val.json`` (6), images of 200x160, 2 categories.

    Image n has a ``cat`` and, if n is even, an ``ant``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data: dict[str, dict[str, Any]] = {}
        for split, numbers in (("train", range(1, 21)), ("val", range(101, 107))):
            folder = root / split
            folder.mkdir(parents=True)
            data: dict[str, Any] = {
                "images": [],
                "annotations": [],
                "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "ant"}],
            }
            self.data[split] = data
            for n in numbers:
                Image.fromarray(blobs(160, 200, n)).save(folder / f"{n}.png")
                data["images"].append(
                    {"id": n, "file_name": f"{n}.png", "width": 200, "height": 160}
                )
                self.annotate(split, image_id=n, bbox=[10 + n % 7, 20, 60, 50])
                if n % 2 == 0:
                    self.annotate(split, image_id=n, category_id=2, bbox=[100, 70 + n % 5, 50, 60])

    def annotate(self, split: str, **entry: Any) -> dict[str, Any]:
        rows = self.data[split]["annotations"]
        rows.append({"id": len(rows) + 1, "category_id": 1} | entry)
        return rows[-1]

    def examine(self, recipe: str = "demo", decode: Decode = "none") -> Examination:
        return examine(self.experiment(recipe), decode)

    def experiment(self, recipe: str = "demo") -> Experiment:
        self.write()
        loaded = load_recipe(recipe)
        data = dataclasses.replace(loaded.data, **find_splits(self.root))
        return dataclasses.replace(loaded, data=data)

    @staticmethod
    def kinds(found: Examination) -> set[str]:
        return {finding.kind for finding in found.findings}

    @staticmethod
    def only(found: Examination, kind: str) -> Finding:
        chosen = [finding for finding in found.findings if finding.kind == kind]
        assert len(chosen) == 1, [finding.text for finding in found.findings]
        return chosen[0]

    def write(self) -> None:
        for split, data in self.data.items():
            (self.root / f"{split}.json").write_text(json.dumps(data))


@pytest.fixture
def two(tmp_path: Path) -> TwoSplits:
    return TwoSplits(tmp_path / "data")
