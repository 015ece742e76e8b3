"""``hyperfocal recipes``: lists the recipes."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from hyperfocal.names import command


def run(words: list[str]) -> int:
    """Print all recipes with the first line of their documentation, or all about one."""
    parser = argparse.ArgumentParser(
        prog="hyperfocal recipes",
        description="List the recipes of `hyperfocal train`, or describe one: its command, the "
        "expected accuracy, and flags for the rows of published tables.",
    )
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="describe this recipe")
    name = parser.parse_args(words).recipe
    from hyperfocal.recipes import describe, docstring, published_rows

    if name is not None:
        text = docstring(name)
        print(text)
        for row in published_rows(text):
            print(f"\n{row.name}:\n    hyperfocal train {command(name, *row.flags)} ...")
        return 0
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("description")
    for name, summary in describe().items():
        table.add_row(name, summary)
    Console().print(table)
    return 0
