"""``--trust MODULE``: allows components of a run from a module outside the package."""

from __future__ import annotations

import argparse

from hyperfocal.types import ConfigError

HELP = (
    "module outside hyperfocal, or .py file, that a run's components may come from; its code is "
    "executed. Can be repeated"
)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command; ``args.trust`` is then the list of modules."""
    parser.add_argument("--trust", action="append", default=[], metavar="MODULE", help=HELP)


def take_trust(words: list[str]) -> tuple[list[str], list[str]]:
    """The modules that ``--trust`` options name, and the other words.

    Raises:
        ConfigError: the last word is ``--trust``.
    """
    trust, rest = [], []
    queue = iter(words)
    for word in queue:
        name, equals, value = word.partition("=")
        if name != "--trust":
            rest.append(word)
            continue
        found = value if equals else next(queue, "")
        if not found or found.startswith("-"):
            raise ConfigError("--trust needs the name of a module, or a .py file")
        trust.append(found)
    return trust, rest
