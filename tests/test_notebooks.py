"""The notebooks of examples/ run from top to bottom, on small data."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from hyperfocal.types import HyperfocalWarning

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"

SMALLER: dict[str, dict[str, Any]] = {
    "own_data": {"EPOCHS": 1, "TRAIN_IMAGES": 40, "VAL_IMAGES": 6},
    "own_loss": {"SEEDS": (0,), "STEPS": 3, "TRAIN_IMAGES": 40, "VAL_IMAGES": 6},
    "long_tail": {
        "EPOCHS": 0.2,
        "TRAIN_IMAGES": 40,
        "VAL_IMAGES": 6,
        "CATEGORIES": 6,
        "IMBALANCE": 6,
    },
}
"""Constants of the first code cell, replaced so that a notebook runs in seconds."""


def code_cells(name: str) -> list[str]:
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == SMALLER.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, *rest = code_cells(name)
    assert all(constant in first for constant in SMALLER[name])
    space: dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HyperfocalWarning)  # tiny data has too few of everything
        exec(first, space)
        space |= SMALLER[name]
        for cell in rest:
            exec(cell, space)
    if name == "own_data":
        assert 0 <= space["run"].metrics["AP"] <= 1
        assert (tmp_path / "own_data/run/detections.png").exists()
    if name == "own_loss":
        assert len(space["differences"]) == 1
    if name == "long_tail":
        assert set(space["runs"]) == {"focal", "efl", "efl_rfs"}
    assert os.listdir(tmp_path) == [name]
