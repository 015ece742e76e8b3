"""The ``hyperfocal`` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

USAGE = """\
usage: hyperfocal COMMAND ...

Train dense object detectors on imbalanced data.

commands:
  demo                      draw a long-tailed set, train, evaluate, leave pictures (5 to 12 min)
  doctor DATA [flags]       what is wrong with your data, and settings that suit it
  train RECIPE [flags]      train and evaluate a detector on your images
  evaluate RUN [flags]      measure a trained detector on annotated images
  evaluate --detections F   measure anyone's COCO-format results
  predict RUN PATH...       annotated pictures and predictions.json
  figures NAME|RUN...       the papers' figures, redrawn from functions and runs
  reproduce TABLE           a paper's table: its rows over seeds, beside the published numbers
  recipes                   what there is to train, and what each is for
  replay FILE               make a step again whose loss wasn't finite (RUN/blackbox)
  import torchvision F      bring torchvision RetinaNet or FCOS weights over

`hyperfocal COMMAND --help` tells more; `hyperfocal train RECIPE --help` lists every setting.
"""

COMMANDS = {
    "demo": "demo",
    "doctor": "doctor",
    "train": "train",
    "evaluate": "evaluate",
    "predict": "predict",
    "figures": "figures",
    "reproduce": "reproduce",
    "recipes": "recipes",
    "replay": "replay",
    "import": "import_weights",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: something the person has to mend)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] in ("-V", "--version"):
        from hyperfocal import __version__

        print(f"hyperfocal {__version__}")
        return 0
    if words[0] not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        print(f"hyperfocal: no command {words[0]!r}.{hint}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    try:  # around the imports too, which take seconds
        return _run(COMMANDS[words[0]], words[1:])
    except KeyboardInterrupt:
        print("hyperfocal: interrupted", file=sys.stderr)
        return 130


def _run(name: str, words: list[str]) -> int:
    from hyperfocal.names import for_terminal
    from hyperfocal.types import HyperfocalError, HyperfocalWarning

    show = warnings.showwarning

    def show_plainly(message, category, *rest, **more):  # type: ignore[no-untyped-def]
        if issubclass(category, HyperfocalWarning):
            print(f"warning: {for_terminal(message)}", file=sys.stderr)
        else:
            show(message, category, *rest, **more)

    warnings.showwarning = show_plainly
    try:
        status: int = import_module(f"hyperfocal.commands.{name}").run(words)
    except HyperfocalError as error:
        print(f"hyperfocal: {for_terminal(error)}", file=sys.stderr)
        return 2
    finally:
        warnings.showwarning = show
    return status


if __name__ == "__main__":
    sys.exit(main())
