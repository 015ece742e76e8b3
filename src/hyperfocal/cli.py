"""The ``hyperfocal`` command. Heavy imports are deferred until a command needs them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

USAGE = """\
usage: hyperfocal COMMAND ...

Train dense object detectors on imbalanced data.

commands:
  demo                      train and evaluate on a synthetic long-tailed dataset (5 to 12 min)
  doctor DATA [flags]       find problems in a dataset and recommend settings
  train RECIPE [flags]      train and evaluate a detector on your images
  train --resume RUN        continue a run with its own settings
  evaluate RUN [flags]      evaluate a trained detector on annotated images
  evaluate --detections F   evaluate a results file in COCO format
  predict RUN PATH...       write annotated images and predictions.json
  figures NAME|RUN...       plot the figures of the papers from functions and runs
  reproduce TABLE           train a paper's table over seeds and compare with published numbers
  recipes                   list the recipes and what each is for
  replay FILE               repeat a step with a non-finite loss (RUN/blackbox)
  import torchvision|yolox F  import weights of torchvision or of YOLOX

See `hyperfocal COMMAND --help`; `hyperfocal train RECIPE --help` lists all settings.
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
    """Run one command and return the exit status (2: an error that the user can fix)."""
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
    try:  # includes the imports, which take seconds
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
