"""The focal-loss paper's Fig. 4: its values."""

import numpy as np
import pytest

from hyperfocal.figures.cumulative import (
    FRACTIONS,
    GAMMAS,
    RunLogits,
    cumulative_figure,
    cumulative_loss,
    focal_loss,
)


def at(fraction: float, curve: np.ndarray) -> float:
    return float(np.interp(fraction, FRACTIONS, curve))


def test_focal_loss_as_written_and_in_its_tails() -> None:
    x = np.linspace(-30, 30, 121)
    p = 1 / (1 + np.exp(-x))
    for gamma in GAMMAS:
        expected = (1 - p) ** gamma * -np.log(p)
        near = np.abs(x) < 10
        np.testing.assert_allclose(focal_loss(x, gamma)[near], expected[near], rtol=1e-9)
    # p_t -> 1: e^(-x (gamma + 1)), where 1 - p and log p have long been 0.
    assert focal_loss(np.array([50.0]), 2.0)[0] == pytest.approx(np.exp(-150), rel=1e-9)
    assert focal_loss(np.array([-800.0]), 2.0)[0] == 800


def test_cumulative_loss_by_hand() -> None:
    """Three samples of loss 1, 1 and 2 for gamma 0."""
    x_t = np.array([-np.log(np.e - 1)] * 2 + [-np.log(np.e**2 - 1)])
    curve = cumulative_loss(x_t, 0.0)
    for fraction, share in ((0, 0), (1 / 3, 0.25), (0.5, 0.375), (2 / 3, 0.5), (1, 1)):
        assert at(fraction, curve) == pytest.approx(share, abs=1e-3)
    assert np.isnan(cumulative_loss(np.zeros(0), 2.0)).all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_cumulative_loss_equals_sorting_the_losses(gamma: float) -> None:
    rng = np.random.default_rng(0)
    x_t = rng.normal(2, 2, 3000).astype(np.float32)
    losses = np.sort(focal_loss(x_t, gamma))  # ascending, whatever falls with x_t
    curve = cumulative_loss(np.sort(x_t)[::-1], gamma)
    for count in (1, 300, 1500, 2700, 2997):
        expected = losses[:count].sum() / losses.sum()
        assert at(count / 3000, curve) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert (np.diff(curve) >= 0).all()
    assert (curve[0], curve[-1]) == pytest.approx((0, 1))


def test_what_the_paper_reads_off_it() -> None:
    """Negatives collapse onto few samples as gamma grows; positives hardly change."""
    rng = np.random.default_rng(0)
    run = RunLogits("run", rng.normal(0, 1.5, 1000), rng.normal(6, 1.5, 100_000))
    found = cumulative_figure([run, RunLogits("none", run.positive, run.negative[:0])])
    assert set(found.columns) == {"fraction"} | {
        f"{name}, {side}, gamma={gamma:g}"
        for name in ("run", "none")
        for side in ("positive", "negative")
        for gamma in GAMMAS
    }
    assert np.isnan(found.columns["none, negative, gamma=2"]).all()
    easy = {
        (side, gamma): at(0.8, found.columns[f"run, {side}, gamma={gamma:g}"])
        for side in ("positive", "negative")
        for gamma in GAMMAS
    }
    negatives = [easy["negative", gamma] for gamma in GAMMAS]
    assert negatives == sorted(negatives, reverse=True)
    assert easy["negative", 2] < 0.01
    assert easy["positive", 0] - easy["positive", 2] < 0.3
    lines = found.figure.axes[1].get_lines()
    assert len(found.figure.axes) == 4
    np.testing.assert_array_equal(lines[3].get_ydata(), found.columns["run, negative, gamma=2"])
