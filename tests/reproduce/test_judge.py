"""Conclusions from invented results, compared with calculations by hand."""

from __future__ import annotations

import pytest

from hyperfocal.reproduce.judge import Outcome, interval, judge, t_quantile
from hyperfocal.reproduce.table import Exceeds, Fails, Within

A_OVER_B = Exceeds("a beats b", ("a",), ("b",))


def results(**rows: list[float | None]):
    """AP by seed; None: diverged at step 7."""
    return {
        name: {
            seed: Outcome({}, 7) if ap is None else Outcome({"AP": ap})
            for seed, ap in enumerate(values)
        }
        for name, values in rows.items()
    }


def test_the_interval_of_three_pairs_by_hand() -> None:
    # mean 2, standard deviation 1, t(2) = 4.303: 2 ± 4.303 / sqrt(3)
    assert interval([1, 2, 3]) == pytest.approx((2 - 2.4843, 2 + 2.4843), abs=1e-3)


@pytest.mark.parametrize(
    ("freedom", "value"), [(2, 4.303), (10, 2.228), (11, 2.201), (20, 2.086), (120, 1.980)]
)
def test_quantiles_are_those_of_printed_tables(freedom: int, value: float) -> None:
    assert t_quantile(freedom) == pytest.approx(value, abs=0.003)


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [
        ([30, 31, 32], [28, 29.1, 29.9], "holds"),
        ([28, 29.1, 29.9], [30, 31, 32], "does not hold"),
        ([30, 29, 31], [29, 30, 30.5], "undecided"),
        ([30], [20], "too few seeds"),
        ([], [20, 21], "not measured"),
        ([30, 31, 32], [None, None, None], "holds"),
    ],
)
def test_a_row_above_another(a, b, answer) -> None:
    assert judge(A_OVER_B, results(a=a, b=b)).answer == answer


def test_pairs_are_of_one_seed() -> None:
    """Seeds differ by 20 points, the rows by 1 on each: unpaired, nothing is significant."""
    found = judge(A_OVER_B, results(a=[11, 31, 51.1], b=[10, 30, 50]))
    assert found.answer == "holds"
    only_b = results(a=[11, 31], b=[10, 30, 50, 90])
    assert "2 seeds" in judge(A_OVER_B, only_b).why


def test_seeds_in_common_are_too_few() -> None:
    found = results(a=[11, 31], b=[10, 30])
    found["b"] = {seed + 1: run for seed, run in found["b"].items()}
    assert judge(A_OVER_B, found).answer == "too few seeds"


def test_best_and_worst_of_several() -> None:
    found = results(a=[30, 30.1], b=[20, 20.2], c=[25, 25.1])
    best = Exceeds("", ("a", "b"), ("c",))
    worst = Exceeds("", ("a", "b"), ("c",), pick="worst")
    assert judge(best, found).answer == "holds"
    assert judge(worst, found).answer == "does not hold"
    assert judge(Exceeds("", ("c",), ("a", "b")), found).answer == "does not hold"


def test_a_margin_moves_the_line() -> None:
    found = results(a=[30, 30.1], b=[30.3, 30.4])
    assert judge(Exceeds("", ("a",), ("b",), by=-0.5), found).answer == "holds"
    assert judge(A_OVER_B, found).answer == "does not hold"


@pytest.mark.parametrize(
    ("a", "answer"),
    [
        ([30.1, 30.2, 30.1], "holds"),
        ([33, 33.1, 33.2], "does not hold"),
        ([30, 29, 31.5], "undecided"),
        ([30], "too few seeds"),
    ],
)
def test_two_rows_close_together(a, answer) -> None:
    claim = Within("", "a", "b", 0.5)
    assert judge(claim, results(a=a, b=[30.0] * len(a))).answer == answer


@pytest.mark.parametrize(
    ("a", "answer"),
    [
        ([None, None], "holds"),
        ([None, 0.1], "holds"),
        ([None, 20], "undecided"),
        ([20, 21], "does not hold"),
        ([None], "too few seeds"),
        ([], "not measured"),
    ],
)
def test_divergence_is_a_result(a, answer) -> None:
    verdict = judge(Fails("", "a"), results(a=a))
    assert verdict.answer == answer
    if None in a:
        assert "step 7" in verdict.why
    flipped = {"holds": "does not hold", "does not hold": "holds"}.get(answer, answer)
    assert judge(Fails("", "a", expected=False), results(a=a)).answer == flipped
