"""The figure of gradient ratios shows the values of ratios.jsonl."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from hyperfocal.figures import ratio_figure, style
from hyperfocal.figures.ratio_files import read_categories, read_ratios
from hyperfocal.figures.ratios import group_members, spread
from hyperfocal.types import DataError

STEPS = [1, 2, 5, 10, 20]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures in the order in which they are saved."""
    figures: list[Figure] = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda f, out: (figures.append(f), save(f, out))[1])
    return figures


def write_run(run: Path, images: list[int], ratio: np.ndarray) -> Path:
    """``ratio (S, K)``."""
    entries = [
        {"id": k + 1, "name": f"c{k}_$", "train_images": n, "train_instances": n}
        for k, n in enumerate(images)
    ]
    (run / "categories.json").write_text(json.dumps({"categories": entries, "train_images": 500}))
    groups = {"names": ["r", "f"], "bounds": [10]}
    (run / "config.json").write_text(json.dumps({"evaluation": {"groups": groups}}))
    lines = [
        {"step": s, "ratio": row.tolist(), "pos_grad": row.tolist(), "neg_grad": [1.0] * len(row)}
        for s, row in zip(STEPS, ratio, strict=True)
    ]
    (run / "ratios.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def falling(last: list[float]) -> np.ndarray:
    return np.linspace(np.ones(len(last)), last, len(STEPS))


def test_few_categories_have_a_line_and_a_name_each(tmp_path, saved):
    ratio = falling([0.2, 1.0, 0.0])
    ratio_figure(write_run(tmp_path, [300, 4, 0], ratio), tmp_path / "ratios.png")
    (axes,) = saved[0].axes
    lines = {}
    for line in axes.get_lines():
        if len(line.get_xdata()):
            np.testing.assert_array_equal(line.get_xdata(), STEPS)
            lines[line.get_color()] = line.get_ydata()
    assert len(lines) == 3
    names = {text.get_text(): text.get_color() for text in axes.texts}
    for k, colour in ((0, style.group_colours("rf")["f"]), (1, style.group_colours("rf")["r"])):
        np.testing.assert_allclose(lines[colour], ratio[:, k])
        assert names[f"c{k}_$"] == colour
    np.testing.assert_allclose(lines[style.GREY], ratio[:, 2])
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["rare: 1 of 1 at 1", "frequent: 0 of 1 at 1", "not in training: 0 of 1 at 1"]


def test_many_categories_have_medians_and_bands(tmp_path, saved):
    images = [5] * 900 + [50] * 303
    last = np.concatenate([np.linspace(0, 0.5, 900), np.ones(303)])
    ratio = falling(last.tolist())
    ratio_figure(write_run(tmp_path, images, ratio), tmp_path / "ratios.png")
    (axes,) = saved[0].axes
    lines = {x.get_color(): x.get_ydata() for x in axes.get_lines() if len(x.get_xdata())}
    assert len(lines) == 2
    np.testing.assert_allclose(
        lines[style.group_colours("rf")["r"]], np.median(ratio[:, :900], axis=1)
    )
    assert len(axes.collections) == 4
    band = axes.collections[1].get_paths()[0].vertices
    at_end = band[band[:, 0] == STEPS[-1]][:, 1]
    assert (at_end.min(), at_end.max()) == pytest.approx((0.05, 0.45))
    assert not axes.texts


def test_ratios_above_one_get_a_logarithm(tmp_path, saved):
    ratio_figure(write_run(tmp_path, [300, 4], falling([100.0, 0.3])), tmp_path / "ratios.png")
    assert saved[0].axes[0].get_yscale() == "log"


def test_one_step_is_enough(tmp_path):
    run = write_run(tmp_path, [300, 4], falling([1.0, 0.3]))
    first = (run / "ratios.jsonl").read_text().splitlines()[0]
    (run / "ratios.jsonl").write_text(first + "\n" + '{"step": 7, "rat')
    assert read_ratios(run).steps.tolist() == [1]
    assert ratio_figure(run, tmp_path / "ratios.png").exists()


def test_files_that_are_missing_or_something_else_are_named(tmp_path):
    run = write_run(tmp_path, [300, 4], falling([1.0, 0.3]))
    good = (run / "ratios.jsonl").read_text()
    for text, message in (
        ("", "no ratios have been logged yet"),
        ("{}\n" + good, "line 1 has no ratios"),
        ('{"step": 1, "ratio": [1, 2], "pos_grad": "a", "neg_grad": []}\n', "not the ratios"),
    ):
        (run / "ratios.jsonl").write_text(text)
        with pytest.raises(DataError, match=rf"ratios\.jsonl: {message}"):
            read_ratios(run)
    (run / "ratios.jsonl").unlink()
    with pytest.raises(DataError, match=r"ratios\.jsonl: no such file"):
        read_ratios(run)
    (run / "config.json").write_text("{}")
    with pytest.raises(DataError, match="not the categories of a run"):
        read_categories(run)


def test_groups_follow_the_runs_own_bounds(tmp_path):
    categories, groups = read_categories(write_run(tmp_path, [10, 11, 0], falling([1, 1, 1])))
    assert groups == ("r", "f")
    assert group_members(categories, groups) == {"r": [0], "f": [1], None: [2]}


def test_places_are_spread_no_further_than_needed():
    np.testing.assert_allclose(spread(np.array([0.1, 0.5, 0.9]), 0.1), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(spread(np.array([0.2, 0.5, 0.5]), 0.1), [0.2, 0.45, 0.55])
    np.testing.assert_allclose(spread(np.array([0.5, 1.0, 1.0]), 0.1)[1:], [0.9, 1.0])
    np.testing.assert_allclose(spread(np.array([0.0, 0.0]), 0.1), [0.0, 0.1])
    rng = np.random.default_rng(0)
    moved = spread(np.sort(rng.random(9)), 0.1)
    assert (np.diff(moved) > 0.1 - 1e-9).all()
    assert moved.min() > -1e-9
    assert moved.max() < 1 + 1e-9
    assert spread(np.array([]), 0.1).tolist() == []
