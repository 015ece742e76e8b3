"""The scripts in examples/ run, and their results are what their texts state."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, **settings) -> dict[str, dict[str, float]]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](**settings)


def test_detector_head():
    results = run("detector_head", steps=150)
    for row in results.values():
        assert row["frequent"] > row["rare"]
        assert row["background"] < 0.02
    assert results["efl"]["rare"] > results["focal"]["rare"]


@pytest.mark.slow
def test_segmentation_map():
    results = run("segmentation_map", steps=200)
    for row in results.values():
        assert row["disc"] > 0.85
    assert results["focal, recovered"]["crack"] > results["focal"]["crack"] + 0.05


def test_imbalanced_table():
    results = run("imbalanced_table", rows=50_000)
    assert all(row["AP"] > 20 * 0.005 for row in results.values())
    focal, recovered = results["focal"], results["focal, recovered"]
    assert focal["AP"] == recovered["AP"]
    assert focal["expected"] > 4 * focal["true"]
    assert 0.5 * focal["true"] < recovered["expected"] < 1.5 * focal["true"]
