"""One piece of advice."""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "Lin et al., ICCV 2017"
EFL = "Li et al., CVPR 2022"
LVIS = "Gupta et al., CVPR 2019"


@dataclass(frozen=True)
class Proposal:
    """What to set, and why.

    Attributes:
        topic: what it is about.
        flags: words for ``hyperfocal train``; none where the recipe's setting is to be kept.
        reason: why, with the measured numbers.
        source: what the rule rests on.
    """

    topic: str
    flags: tuple[str, ...]
    reason: str
    source: str
