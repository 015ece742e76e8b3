"""Which files `hyperfocal predict` takes for images."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperfocal.commands.predict import find_images
from hyperfocal.data.images import SUFFIXES
from hyperfocal.types import DataError, HyperfocalWarning


def test_folders_are_searched_for_the_suffixes_that_training_reads(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        (tmp_path / f"a{suffix}").touch()
    (tmp_path / "B.JFIF").touch()
    (tmp_path / "notes.txt").touch()
    found = find_images([str(tmp_path)])
    assert {path.name for path in found} == {*(f"a{s}" for s in SUFFIXES), "B.JFIF"}


def test_hidden_files_are_left_out_with_a_count(tmp_path: Path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    for name in ("a.jpg", "._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg"):
        (tmp_path / name).touch()
    with pytest.warns(HyperfocalWarning, match="2 images left out because .*hidden"):
        assert find_images([str(tmp_path)]) == [tmp_path / "a.jpg"]
    with pytest.raises(DataError, match="no images found"):
        find_images([str(tmp_path / "none*")])
