"""Hook of mkdocs: formulas in ``$$...$$`` become MathML, which browsers show without a script."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page."""
    return FORMULA.sub(lambda found: f"<div>{convert(found[1], display='block')}</div>", markdown)
