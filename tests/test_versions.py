"""A source tree that was never installed runs: missing versions are recorded as unknown."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

import hyperfocal
from hyperfocal import cli
from hyperfocal.recipes import load_recipe
from hyperfocal.reproduce.runs import Job
from hyperfocal.runs.categories import TrainedCategories
from hyperfocal.runs.environment import describe_environment
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import Category
from hyperfocal.versions import version_of


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)


def test_versions_of_what_is_installed_are_its_own() -> None:
    assert version_of("torch") == metadata.version("torch")
    assert version_of("no-such-distribution") == "unknown"


@pytest.mark.usefixtures("nothing_installed")
def test_a_run_folder_is_written_without_an_installed_distribution(tmp_path: Path) -> None:
    assert set(describe_environment()["packages"].values()) == {"unknown"}
    run = RunFolder(tmp_path / "run")
    run.start(load_recipe("demo"), TrainedCategories((Category(1, "cat"),), None))
    packages = json.loads(run.environment.read_text())["packages"]
    assert packages["hyperfocal"] == packages["torch"] == "unknown"
    assert "hyperfocal unknown" in Job("row", 0, run.path, ()).machine()


@pytest.mark.usefixtures("nothing_installed")
def test_the_version_is_unknown_rather_than_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert hyperfocal.__version__ == "unknown"
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "hyperfocal unknown\n"


def test_metadata_without_a_version_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: None)
    assert version_of("torch") == "unknown"
