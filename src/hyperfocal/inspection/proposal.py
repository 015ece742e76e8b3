"""A proposed setting."""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "Lin et al., ICCV 2017"
EFL = "Li et al., CVPR 2022"
LVIS = "Gupta et al., CVPR 2019"


@dataclass(frozen=True)
class Proposal:
    """A proposed setting and its reason.

    Attributes:
        topic: what it is about.
        flags: words for ``hyperfocal train``; empty if the recipe's setting should be kept.
        reason: why, with the measured numbers.
        source: reference for the rule.
    """

    topic: str
    flags: tuple[str, ...]
    reason: str
    source: str
