"""Figures with one value per category, and their files."""

import csv

import numpy as np
import pytest

from hyperfocal.figures import style
from hyperfocal.figures.export import FigureData, export, unique_names
from hyperfocal.figures.per_category import (
    CategoryLine,
    by_frequency,
    imbalance_figure,
    margin_figure,
    running_median,
)
from hyperfocal.figures.ratio_files import TrainedCategory

CATEGORIES = [
    TrainedCategory("rare_$", 3, "r"),
    TrainedCategory("often", 300, "f"),
    TrainedCategory("never", 0, None),
    TrainedCategory("common", 30, "c"),
]
ORDER = [1, 3, 0, 2]


def test_columns_stand_from_frequent_to_rare() -> None:
    nan = np.nan
    samples = np.array([0.001, 0.1, nan, 0.01])
    focal, efl = np.array([0.1, 1.0, nan, 10.0]), np.array([1.0, 1.0, nan, 0.0])
    found = imbalance_figure(
        [CategoryLine("focal", samples), CategoryLine("efl", samples.copy())],
        [CategoryLine("focal", focal), CategoryLine("efl", efl)],
        CATEGORIES,
    )
    assert by_frequency(CATEGORIES).tolist() == ORDER
    assert found.columns["category"] == ["often", "common", "rare_$", "never"]
    assert found.columns["train_images"] == [300, 30, 3, 0]
    assert found.columns["group"] == ["f", "c", "r", None]
    expected = {
        "log10 samples ratio, focal, efl": [-1, -2, -3, nan],  # one assigner: one line
        "log10 gradient ratio, focal": [0, 1, -1, nan],
        "log10 gradient ratio, efl": [0, nan, 0, nan],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found.columns[name], values)
    left, right = found.figure.axes
    lines = [x for x in left.get_lines() if len(x.get_xdata()) == 4]
    assert len(lines) == 1
    np.testing.assert_allclose(lines[0].get_ydata(), [-1, -2, -3, nan])
    assert len([x for x in right.get_lines() if len(x.get_xdata()) == 4]) == 2
    assert [text.get_text() for text in left.texts] == ["frequent", "common", "rare"]
    assert [t.get_text() for t in left.get_xticklabels()] == found.columns["category"]


def test_runs_of_one_name_keep_a_column_each() -> None:
    margins = [CategoryLine("a", np.arange(4.0)), CategoryLine("a", -np.arange(4.0))]
    found = margin_figure(margins, CATEGORIES)
    assert found.columns["score margin, a"].tolist() == ORDER
    assert found.columns["score margin, a (2)"].tolist() == [-n for n in ORDER]
    assert unique_names(["a", "a", "a (2)"]) == ["a", "a (2)", "a (2) (2)"]


def test_many_categories_are_points_and_a_running_median() -> None:
    rng = np.random.default_rng(0)
    categories = [TrainedCategory(f"c{n}", 1203 - n, "f") for n in range(1203)]
    values = rng.normal(size=1203)
    values[5] = np.nan
    found = margin_figure([CategoryLine("run", values)], categories)
    points, line = found.figure.axes[0].get_lines()
    np.testing.assert_array_equal(points.get_ydata(), values)
    np.testing.assert_array_equal(line.get_ydata(), running_median(values, 1203 // 20))
    assert found.columns["score margin, run"].tolist()[1:5] == values.tolist()[1:5]


def test_a_running_median_by_hand() -> None:
    values = np.array([9.0, 1.0, np.nan, 5.0, 7.0])
    assert running_median(values, 3).tolist() == [5, 5, 3, 6, 6]
    assert np.isnan(running_median(np.array([np.nan]), 3)).all()


def test_files_are_a_png_an_svg_and_the_data(tmp_path) -> None:
    figure = style.new_figure(2, 2)
    figure.subplots().plot([0, 1])
    columns = {"x": np.array([0.1, np.nan]), "name": ["a,b", None], "n": range(2)}
    paths = export(FigureData(figure, columns), tmp_path / "new", "f")
    assert [path.name for path in paths] == ["f.png", "f.svg", "f.csv"]
    assert paths[0].read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in paths[1].read_text()
    assert "<dc:date>" not in paths[1].read_text()
    with paths[2].open(newline="") as file:
        assert list(csv.reader(file)) == [["x", "name", "n"], ["0.1", "a,b", "0"], ["", "", "1"]]
    with pytest.raises(ValueError):
        export(FigureData(figure, {"x": [1], "y": [1, 2]}), tmp_path, "g")


def test_ordered_colours_rise_in_brightness() -> None:
    colours = style.ordered_colours(5)
    light = [sum(w * int(c[i : i + 2], 16) for w, i in ((3, 1), (6, 3), (1, 5))) for c in colours]
    assert light == sorted(light)
    assert len(set(light)) == 5
    assert len(style.ordered_colours(1)) == 1
