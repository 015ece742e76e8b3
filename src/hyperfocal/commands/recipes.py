"""``hyperfocal recipes``: what there is to train."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table


def run(words: list[str]) -> int:
    """Print every recipe with its first line of documentation."""
    parser = argparse.ArgumentParser(
        prog="hyperfocal recipes", description="List the recipes of `hyperfocal train`."
    )
    parser.parse_args(words)
    from hyperfocal.recipes import describe

    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("what it is for")
    for name, summary in describe().items():
        table.add_row(name, summary)
    Console().print(table)
    return 0
