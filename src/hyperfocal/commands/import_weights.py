"""``hyperfocal import ZOO WEIGHTS.pth --out RUN``: other libraries' weights as a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyperfocal.files import check_folder, check_outputs
from hyperfocal.names import command, say


def run(words: list[str]) -> int:
    """Convert the weights and write a run folder for `load`, `evaluate` and `predict`."""
    parser = argparse.ArgumentParser(
        prog="hyperfocal import",
        description="Convert weights of another library into a run folder.",
        allow_abbrev=False,
    )
    parser.add_argument("zoo", choices=["torchvision", "yolox"], help="where the weights come from")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS.pth")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="run folder to write"
    )
    args = parser.parse_args(words)
    check_folder(args.out, "--out")

    from rich.console import Console

    from hyperfocal.importers import import_torchvision, import_yolox, write_imported
    from hyperfocal.runs.folder import RunFolder

    check_outputs("--out", RunFolder(args.out).files, [args.weights])
    read = {"torchvision": import_torchvision, "yolox": import_yolox}[args.zoo]
    write_imported(read(args.weights), RunFolder(args.out))
    again = command("hyperfocal", "predict", args.out)
    say(Console(), f"written: {args.out}  ({again} IMAGES --out OUT)")
    return 0
