"""Figures of losses: their values against the formulas."""

import math

import numpy as np
import pytest

from hyperfocal.figures import loss_shapes, style
from hyperfocal.figures.table_files import ReproducedTable, TableRow


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_focal_loss_paper_figure_1() -> None:
    columns = loss_shapes.focal_gamma_figure().columns
    p = columns["p_t"]
    assert p.min() > 0
    assert p.max() < 1
    for gamma in (0, 0.5, 1, 2, 5):
        np.testing.assert_allclose(columns[f"gamma={gamma:g}"], -((1 - p) ** gamma) * np.log(p))
    assert len(columns) == 6
    # The paper's own figure: at p_t = 0.9 and gamma = 2 a hundredth of cross-entropy.
    at = int(np.abs(p - 0.9).argmin())
    assert columns["gamma=0"][at] / columns["gamma=2"][at] == pytest.approx(100, rel=0.1)


def test_focal_loss_paper_figures_5_and_6() -> None:
    values = loss_shapes.focal_star_figure().columns
    x = values["x_t"]
    p = sigmoid(x)
    expected = {
        "cross-entropy": -np.log(p),
        "FL γ = 2": -((1 - p) ** 2) * np.log(p),
        "FL* γ = 2, β = 1": -np.log(sigmoid(2 * x + 1)) / 2,
        "FL* γ = 4, β = 0": -np.log(sigmoid(4 * x)) / 4,
    }
    slopes = loss_shapes.focal_star_slope_figure().columns
    assert values.keys() == slopes.keys() == {"x_t", *expected}
    for name, curve in expected.items():
        np.testing.assert_allclose(values[name], curve, rtol=1e-9, atol=1e-12)
        # The derivative, from the curve by central differences.
        found = np.gradient(curve, x)[1:-1]
        np.testing.assert_allclose(slopes[name][1:-1], found, atol=2e-3)
    assert x[200] == pytest.approx(0, abs=1e-12)
    assert slopes["FL γ = 2"][200] == pytest.approx(-0.298287, abs=1e-6)
    assert slopes["FL* γ = 2, β = 1"][200] == pytest.approx(-0.268941, abs=1e-6)


def test_focal_loss_paper_figure_7_has_every_setting() -> None:
    columns = loss_shapes.focal_star_sweep_figure().columns
    assert len(columns) == 2 + 6 * 5
    x = columns["x_t"]
    for gamma in (1, 3, 6):
        for beta in (-2, 0, 1):
            expected = np.log1p(np.exp(-(gamma * x + beta))) / gamma
            np.testing.assert_allclose(columns[f"gamma={gamma} beta={beta}"], expected)
    np.testing.assert_allclose(columns["gamma=1 beta=0"], columns["CE"])


def test_figure_7_distinguishes_the_settings_by_their_ap() -> None:
    ap = {"fl": 10.0, "star-2-1": 9.6, "star-4-0": 9.4, "star-1--2": 12.0, "star-6-2": math.nan}
    table = ReproducedTable(
        "fl7", "AP", tuple(TableRow(name, {}, {"AP": x}, ()) for name, x in ap.items())
    )
    found = loss_shapes.focal_star_sweep_figure(table)
    (axes,) = found.figure.axes
    curves = dict(zip(list(found.columns)[2:], axes.lines, strict=False))
    colours = {name: line.get_color() for name, line in curves.items()}
    assert colours.pop("gamma=2 beta=1, AP 9.6") == style.BLUE  # 0.4 below focal loss
    assert colours.pop("gamma=1 beta=-2, AP 12.0") == style.BLUE
    assert colours.pop("gamma=4 beta=0, AP 9.4") == style.VERMILLION
    assert len(colours) == 27
    assert set(colours.values()) == {style.GREY}


def test_efl_paper_figure_3() -> None:
    columns = loss_shapes.weighting_factor_figure().columns
    x = columns["x_t"]
    p = sigmoid(x)
    for ratio in (1, 0.75, 0.5, 0.25, 0):
        added = 8 * (1 - ratio)
        without = -((1 - p) ** (2 + added)) * np.log(p)
        np.testing.assert_allclose(
            columns[f"without factor, g={ratio:g}"], without, rtol=1e-5, atol=1e-12
        )
        np.testing.assert_allclose(
            columns[f"with factor, g={ratio:g}"], (2 + added) / 2 * without, rtol=1e-5, atol=1e-12
        )
    # What the paper reads off it: without the factor more focus is less loss at every x_t; with
    # it, more loss on what is hard (p_t below 0.182 for γ_v = 8) and less on what is easy.
    assert (columns["without factor, g=0"] < columns["without factor, g=1"]).all()
    louder = columns["with factor, g=0"] > columns["with factor, g=1"]
    np.testing.assert_array_equal(louder, p < 1 - 5 ** (-1 / 8))
