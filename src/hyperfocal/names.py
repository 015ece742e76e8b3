"""Escaping of names of categories, files and runs for terminals, images, CSV files and HTML.

Names are untrusted data. They may contain terminal escape sequences, markup, formulas, or a hundred
thousand characters, which must neither be interpreted nor flood the output.
"""

from __future__ import annotations

import re
import shlex
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MAX_NAME = 80
"""Maximum characters of a name in a table or a message."""

MAX_IN_IMAGE = 40
"""Maximum characters of a name in an image or figure."""

MAX_LINE = 2000
"""Maximum characters of a line of a message."""

MAX_COMMAND = 100_000
"""Maximum characters of a printed command."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
"""Invisible characters that Persian, Indic scripts and emoji need."""

_FORMULA = tuple("=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH COMMERCIAL AT}")
"""Characters that start a formula in spreadsheets."""


def printable(text: str, kept: str = "") -> str:
    """The text with all non-printable characters replaced, except those in ``kept``.

    Control characters (such as the escape character), bidirectional control marks and lone
    surrogates become U+FFFD.
    """
    if text.isprintable():
        return text
    allowed = _JOINERS + kept
    return "".join(c if c.isprintable() or c in allowed else REPLACEMENT for c in text)


def shortened(text: str, most: int = MAX_NAME) -> str:
    """The text, with its middle omitted if it has more than ``most`` characters."""
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[: most - 3 - half]}...{text[-half:] if half else ''}"


def for_terminal(text: object, most: int = MAX_LINE) -> str:
    """Text for a terminal: printable, line breaks kept, no line longer than ``most`` characters."""
    lines = str(text).split("\n")
    return "\n".join(printable(shortened(line, most)) for line in lines)


def one_name(name: object, most: int = MAX_NAME) -> str:
    """A name for a table or a message: one printable line of at most ``most`` characters."""
    return printable(re.sub(r"\s", " ", shortened(str(name), most)))


def for_image(name: object) -> str:
    """A name as an image label: one short line."""
    return one_name(name, MAX_IN_IMAGE)


def for_figure(name: object, most: int = MAX_IN_IMAGE) -> str:
    """A name as matplotlib text: one short line, with mathtext escaped.

    A leading underscore is escaped too, because matplotlib omits such labels from legends.
    """
    text = one_name(name, most)
    if text.count("$") % 2 == 0:  # matplotlib parses mathtext only if the number is even
        text = text.replace("$", r"\$")
    return f"\N{HAIR SPACE}{text}" if text.startswith("_") else text


def for_csv(value: object) -> str:
    """Text for a cell of a CSV file; a ``'`` is put before text that would be a formula."""
    text = printable(str(value), kept="\n")
    return f"'{text}" if str(value).lstrip().startswith(_FORMULA) else text


def for_html(value: object, most: int = MAX_LINE) -> str:
    """Text escaped for HTML, as content or as the value of an attribute."""
    return escape(for_terminal(value, most))


def command(*words: object) -> str:
    """A command line that is safe to copy into a shell (bash, zsh, ksh)."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    # $'...' escapes characters that a terminal would interpret.
    spelled = "".join(
        c if c.isprintable() and c not in "\\'" else _escape(c) for c in word
    )  # fmt: skip
    return f"$'{spelled}'"


def _escape(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def as_text(value: object, style: str = "", most: int = MAX_LINE) -> Text:
    """Text for rich, without markup."""
    from rich.text import Text

    return Text(for_terminal(value, most), style=style)


def say(console: Console, value: object, style: str = "", most: int = MAX_LINE) -> None:
    """Print text that may contain untrusted names, without markup or control characters."""
    console.print(as_text(value, style, most), soft_wrap=True, highlight=False)
