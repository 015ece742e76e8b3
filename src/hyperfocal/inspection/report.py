"""What doctor prints."""

from __future__ import annotations

from rich.console import Console

from hyperfocal.inspection.advice import Advice
from hyperfocal.inspection.examine import Examination
from hyperfocal.names import MAX_COMMAND, as_text, say
from hyperfocal.types import AnnotationSet

SHOWN_CASES = 3
"""Cases printed with a finding; the page and the JSON have more."""

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def print_report(found: Examination, advice: Advice | None, console: Console) -> None:
    """Print findings by severity, then the advice and the command that follows from it."""
    for name, split in (("train", found.train), ("val", found.val)):
        if split is not None:
            say(console, f"{name}: {describe(split)}")
    for finding in found.findings:
        where = f"{finding.split}: " if finding.split else ""
        line = as_text(f"{finding.severity:8}", _STYLES[finding.severity])
        line.append_text(as_text(f"{where}{finding.text}", "default"))
        console.print(line, soft_wrap=True, highlight=False)
        for case in finding.cases[:SHOWN_CASES]:
            say(console, f"           {case}", "dim")
        if finding.count > SHOWN_CASES and len(finding.cases) > SHOWN_CASES:
            say(console, f"           ... {finding.count} in all", "dim")
    say(console, summary(found), "bold")
    if advice is None:
        return
    say(console, f"\nAdvice for {advice.recipe}:", "bold")
    for proposal in advice.proposals:
        say(console, f"  {proposal.topic}: {' '.join(proposal.flags) or 'keep'}")
        say(console, f"      {proposal.reason}. [{proposal.source}]", "dim")
    say(console, "Train by it:", "bold")
    say(console, f"  {advice.command}", most=MAX_COMMAND)


def describe(split: AnnotationSet) -> str:
    """A split in a line."""
    counts = split.counts()
    present = [n for n in counts.images if n]
    line = (
        f"{counts.num_images} images, {sum(counts.instances)} boxes, "
        f"{len(split.categories)} categories"
    )
    if present:
        line += f" in {min(present)} to {max(present)} images each"
    return line


def summary(found: Examination) -> str:
    """How many findings of each severity, and how closely was looked."""
    numbers = {s: sum(f.severity == s for f in found.findings) for s in _STYLES}
    words = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in numbers.items())
    looked = {
        "none": "no image file was opened whose size is annotated",
        "headers": "image headers were read, no image was decoded (--decode full finds more)",
        "sample": "some images were decoded (--decode full takes all)",
        "full": "every image was decoded",
    }
    return f"{words}; {looked[found.looked_at]}"
