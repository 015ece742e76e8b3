"""The examples in the docstrings of public names, run on a small dataset."""

from __future__ import annotations

import doctest
import shutil
import warnings
from pathlib import Path

import pytest

import hyperfocal

# Files that the examples name: train.json and val.json with their images; train's example makes
# runs/mine, which others read.
NAMES = ["train", *sorted(set(hyperfocal.__all__) - {"train", "__version__"})]


@pytest.mark.slow
def test_every_public_name_has_an_example_that_runs(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train", "val"):
        shutil.copytree(synthetic / name, tmp_path / name)
        shutil.copy(synthetic / f"{name}.json", tmp_path)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for name in NAMES:
        text = getattr(hyperfocal, name).__doc__ or ""
        example = doctest.DocTestParser().get_doctest(text, {}, f"hyperfocal.{name}", None, 0)
        assert example.examples, f"hyperfocal.{name} has no example"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hyperfocal.HyperfocalWarning)
            runner.run(example)
    assert runner.summarize().failed == 0
