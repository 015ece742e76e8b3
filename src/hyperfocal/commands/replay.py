"""``hyperfocal replay RUN/blackbox/STEP/batch-0.pt``: repeat one training step."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyperfocal.commands.trust import add_trust
from hyperfocal.names import say


def run(words: list[str]) -> int:
    """Print the step's loss terms and what isn't finite in it."""
    parser = argparse.ArgumentParser(
        prog="hyperfocal replay",
        description="Repeat the forward and backward pass of a step that a run saved in its "
        "blackbox folder because the loss or gradient wasn't finite.",
    )
    parser.add_argument("FILE", type=Path, help="batch-RANK.pt in RUN/blackbox/STEP")
    parser.add_argument("--accelerator", choices=["cpu", "cuda", "mps"], help="default: the run's")
    add_trust(parser)
    args = parser.parse_args(words)
    from rich.console import Console

    from hyperfocal.engine.nonfinite.blackbox import replay

    made, console = replay(args.FILE, args.accelerator, args.trust), Console()
    say(console, f"step {made.step}, images {', '.join(map(str, made.image_ids))}")
    for terms in made.gradients.terms:
        values = [f"{name} {float(value):.6g}" for name, value in terms.named().items()]
        say(console, "  ".join(values))
    say(console, f"gradient norm {float(made.gradients.norm):.6g}")
    for name in made.bad_gradients[:20]:
        say(console, f"  not finite: gradient of {name}")
    if not bool(made.gradients.bad):
        console.print("Everything is finite here: the cause is the run's device or precision.")
    return 0
