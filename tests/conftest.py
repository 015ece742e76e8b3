"""Fixtures shared by all tests: small synthetic data, no downloads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hyperfocal.data.synthetic import SyntheticConfig, make_dataset


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    # Two test processes run side by side (pyproject.toml); threads of both would wait for each
    # other.
    torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small long-tailed set: 6 categories, 24 training and 8 validation images of 96 pixels."""
    out = tmp_path_factory.mktemp("synthetic") / "set"
    settings = SyntheticConfig(
        num_categories=6, imbalance=6, train_images=24, val_images=8, image_size=96
    )
    make_dataset(out, settings)
    return out
