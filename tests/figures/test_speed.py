"""Fig. 2's numbers are those of the reproduced table."""

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


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("1a", "is Table 1a; there are figures of tables: fl2 of 1e"),
        (None, "fl2 is drawn from a table"),
    ],
)
def test_what_is_no_table_of_times_is_said(table, said, tmp_path: Path, capsys) -> None:
    given = [] if table is None else [str(folder(tmp_path, table))]
    assert main(["figures", "fl2", *given, "--out", str(tmp_path / "figures")]) == 2
    assert said in capsys.readouterr().err
