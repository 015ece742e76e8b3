"""Options of commands that run a detector: image size and number of detections."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from hyperfocal.types import ConfigError

if TYPE_CHECKING:
    from hyperfocal.engine.predict import Size


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--size`` and ``--max-detections``."""
    parser.add_argument(
        "--size",
        nargs="+",
        type=int,
        metavar=("SHORT", "LONG"),
        help="resize images to this shorter side, and at most this longer side, in pixels "
        "(default: as in training; LONG in proportion)",
    )
    parser.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="maximum detections per image (default: the run's, usually 100)",
    )


def size_of(args: argparse.Namespace) -> Size | None:
    """The value of ``--size``.

    Raises:
        ConfigError: not one or two numbers of at least 1.
    """
    if args.size is None:
        return None
    if len(args.size) > 2 or min(args.size) < 1:
        given = " ".join(map(str, args.size))
        raise ConfigError(f"--size {given}: give SHORT, or SHORT and LONG, of at least 1 pixel")
    return args.size[0], (args.size[1] if len(args.size) == 2 else None)


def check_max_detections(args: argparse.Namespace) -> None:
    """Check ``--max-detections``.

    Raises:
        ConfigError: it is below 1.
    """
    if args.max_detections is not None and args.max_detections < 1:
        raise ConfigError(f"--max-detections {args.max_detections}: at least 1")
