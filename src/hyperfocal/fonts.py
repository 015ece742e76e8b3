"""Fonts for names in any script: matplotlib's DejaVu Sans, else an installed font."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hyperfocal.names import MAX_IN_IMAGE, REPLACEMENT, for_figure, for_image
from hyperfocal.types import HyperfocalWarning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAMILY = "DejaVu Sans"


class Label(NamedTuple):
    """Text and a font that can render it.

    Attributes:
        text: the text; characters in no installed font are replaced by U+FFFD.
        font: the font file.
        family: the font's family name.
    """

    text: str
    font: str
    family: str


class _Font(NamedTuple):
    path: str
    family: str


def image_label(name: object) -> Label:
    """A category name as an image label, in the one font that has most of its characters."""
    return _drawable(for_image(name))


def figure_label(name: object, most: int = MAX_IN_IMAGE) -> str:
    """A name for matplotlib; `use_fallback_fonts` selects its font when the figure is saved."""
    return _drawable(for_figure(name, most)).text


def use_fallback_fonts(figure: Figure) -> None:
    """Add a fallback font to the figure's texts that DejaVu Sans can't render."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        family = _drawable(text.get_text()).family
        if family != FAMILY:
            text.set_fontfamily([FAMILY, family])


@functools.lru_cache(maxsize=4096)
def _drawable(text: str) -> Label:
    own = _characters(_standard().path)
    missing = {c for c in text if ord(c) not in own and not c.isspace()}
    if not missing:
        return Label(text, *_standard())
    font = max(_fonts(), key=lambda f: len(_known(f, missing)))  # the first in a tie
    known = _known(font, missing)
    if not known:
        font = _standard()
    lost = missing - known
    if lost:
        warnings.warn(
            f"No installed font has some characters of names; they are shown as {REPLACEMENT} in "
            "images and figures. Install fonts with these characters, such as Noto",
            HyperfocalWarning,
            stacklevel=1,
        )
    return Label("".join(REPLACEMENT if c in lost else c for c in text), *font)


def _known(font: _Font, characters: set[str]) -> set[str]:
    return {c for c in characters if ord(c) in _characters(font.path)}


@functools.cache
def _standard() -> _Font:
    import matplotlib

    return _Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FAMILY)


@functools.cache
def _fonts() -> tuple[_Font, ...]:
    """The installed upright regular fonts, DejaVu Sans first, then by name."""
    from matplotlib.font_manager import fontManager

    entries = [
        (font.name, font.fname)
        for font in fontManager.ttflist
        if font.style == "normal" and str(font.weight) in ("400", "normal", "regular")
    ]
    return (_standard(), *(_Font(path, name) for name, path in sorted(set(entries))))


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """Code points of a font file; empty for bitmap fonts, which can't be scaled."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
