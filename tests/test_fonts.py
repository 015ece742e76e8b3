"""Names in any script are drawn in pictures, or replaced with one warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import FontEntry

from hyperfocal import fonts
from hyperfocal.figures import style
from hyperfocal.figures.annotate import annotate
from hyperfocal.types import HyperfocalWarning

CJK, EMOJI, HEBREW = "猫と犬", "pizza 🍕", "חתול"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No cached fonts or labels before and after."""
    caches = (fonts._drawable, fonts._fonts, fonts._characters)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no font but DejaVu Sans."""
    from matplotlib.font_manager import fontManager

    monkeypatch.setattr(fontManager, "ttflist", [])


def test_what_no_font_has_is_replaced_with_one_warning(no_others: None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        labels = [fonts.image_label(name) for name in (CJK, "a" + CJK, "猫", "cat", HEBREW)]
    assert [label.text for label in labels[-2:]] == ["cat", HEBREW]
    assert labels[0].text == "\N{REPLACEMENT CHARACTER}" * 3
    assert [w.category for w in caught] == [HyperfocalWarning]
    assert "/" not in str(caught[0].message)  # no path


@pytest.mark.usefixtures("no_others")
def test_figures_and_pictures_raise_no_other_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = style.new_figure(3, 3)
        axes = figure.subplots()
        names = [CJK, EMOJI, HEBREW, "x" * 100_000, "half \ud83d"]
        axes.set_xticks(range(len(names)), [fonts.figure_label(name) for name in names])
        axes.plot([0, 1], label=fonts.figure_label(CJK))
        axes.legend()
        for ending in ("png", "svg"):
            style.save(figure, tmp_path / f"figure.{ending}")
        boxes = np.array([[5.0, 5, 60, 60]] * len(names))
        image = np.zeros((80, 80, 3), np.uint8)
        annotate(image, boxes, np.arange(len(names)), names)
    assert {w.category for w in caught} == {HyperfocalWarning}


def test_a_font_that_has_the_characters_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from matplotlib.font_manager import fontManager

    entries = [FontEntry(fname=f"/f/{n.lower()}.ttf", name=n) for n in "AB"]
    monkeypatch.setattr(fontManager, "ttflist", entries)
    known = {"/f/a.ttf": "猫", "/f/b.ttf": "猫と犬"}
    own = fonts._characters

    def characters(path: str) -> frozenset[int]:
        return frozenset(map(ord, known[path])) if path in known else own(path)

    characters.cache_clear = own.cache_clear  # type: ignore[attr-defined]
    monkeypatch.setattr(fonts, "_characters", characters)
    assert fonts.image_label(CJK) == (CJK, "/f/b.ttf", "B")
    figure = style.new_figure(1, 1)
    text = figure.text(0, 0, fonts.figure_label(CJK))
    fonts.use_fallback_fonts(figure)
    assert text.get_fontfamily() == [fonts.FAMILY, "B"]
    assert fonts.image_label("cat").family == fonts.FAMILY
