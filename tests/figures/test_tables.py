"""Figures of reproduced tables have the tables' numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hyperfocal.cli import main
from hyperfocal.reproduce import TABLES
from hyperfocal.reproduce.judge import Outcome
from hyperfocal.reproduce.report import write_report


def folder(out: Path, table: str) -> Path:
    results = {
        "50-400": {0: Outcome({"AP": 10.0, "ms": 5.0}), 1: Outcome({"AP": 12.0, "ms": 7.0})},
        "101-800": {0: Outcome({"AP": 20.0, "ms": 30.0})},
    }
    write_report(TABLES[table], results, {}, "hyperfocal reproduce", out)
    return out


def test_fl2_has_the_published_curve_and_ours(tmp_path: Path) -> None:
    made = folder(tmp_path, "1e")
    assert main(["figures", "fl2", str(made), "--out", str(tmp_path / "figures")]) == 0
    with (tmp_path / "figures" / "fl2.csv").open() as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert len(rows) == 10
    assert float(rows["50-400"]["AP"]) == 11
    assert float(rows["50-400"]["ms"]) == 6
    assert float(rows["101-800"]["published ms"]) == 198
    assert float(rows["101-800"]["published AP"]) == 37.8
    assert rows["50-600"]["AP"] == ""
    assert (tmp_path / "figures" / "fl2.svg").exists()


@pytest.mark.parametrize("table", ["1a", None])
def test_fl2_without_a_table_of_times_is_said(table, tmp_path: Path, capsys) -> None:
    given = [] if table is None else [str(folder(tmp_path, table))]
    assert main(["figures", "fl2", *given, "--out", str(tmp_path / "figures")]) == 2
    assert "fl2 shows a table" in capsys.readouterr().err


def test_any_other_table_is_drawn_row_by_row(tmp_path: Path) -> None:
    results = {
        "alpha=0.50": {0: Outcome({"AP": 10.0}), 1: Outcome({"AP": 12.0})},
        "alpha=0.75": {0: Outcome({}, diverged_at=7)},
    }
    write_report(TABLES["1a"], results, {}, "hyperfocal reproduce", tmp_path)
    assert main(["figures", str(tmp_path), "--out", str(tmp_path / "figures")]) == 0
    with (tmp_path / "figures" / "table_1a.csv").open() as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert list(rows) == [row.name for row in TABLES["1a"].rows]
    assert rows["alpha=0.50"] == {
        "row": "alpha=0.50", "published AP": "30.2", "AP": "11", "AP, run 1": "10",
        "AP, run 2": "12",
    }  # fmt: skip
    assert rows["alpha=0.75"]["AP"] == "0"
    assert rows["alpha=0.999"]["AP"] == ""
    assert (tmp_path / "figures" / "table_1a.svg").exists()


def test_a_table_of_open_images_is_drawn_by_its_own_metric(tmp_path: Path) -> None:
    results = {"r50-efl": {0: Outcome({"AP50": 10.0})}, "r50-baseline": {0: Outcome({}, 3)}}
    write_report(TABLES["efl7"], results, {}, "hyperfocal reproduce", tmp_path)
    assert main(["figures", str(tmp_path), "--out", str(tmp_path / "figures")]) == 0
    with (tmp_path / "figures" / "table_efl7.csv").open() as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert rows["r50-efl"] == {
        "row": "r50-efl", "published AP50": "51.5", "AP50": "10", "AP50, run 1": "10",
    }  # fmt: skip
    assert rows["r50-baseline"]["AP50"] == "0"
