"""The printed report of doctor."""

from __future__ import annotations

from rich.console import Console

from hyperfocal.inspection.advice import Advice
from hyperfocal.inspection.examine import Examination
from hyperfocal.names import MAX_COMMAND, as_text, say
from hyperfocal.types import AnnotationSet

SHOWN_CASES = 3
"""Cases printed per finding; the HTML and JSON reports have more."""

_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def print_report(found: Examination, advice: Advice | None, console: Console) -> None:
    """Print findings by severity, then the advice and its command."""
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
    say(console, "Command:", "bold")
    say(console, f"  {advice.command}", most=MAX_COMMAND)


def describe(split: AnnotationSet) -> str:
    """One line about a split."""
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
    """Number of findings of each severity, and how thoroughly images were checked."""
    numbers = {s: sum(f.severity == s for f in found.findings) for s in _STYLES}
    words = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in numbers.items())
    looked = {
        "none": "image files with an annotated size were not opened",
        "headers": "image headers were read, no image was decoded (--decode full finds more)",
        "sample": "some images were decoded (--decode full decodes all)",
        "full": "all images were decoded",
    }
    return f"{words}; {looked[found.looked_at]}"
