"""Findings of doctor: one `Finding` per kind of problem, with the cases that show it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
"""``error``: training would stop, or learn from wrong labels; ``warning``: something is left out,
corrected or likely to reduce accuracy; ``note``: worth knowing."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
MAX_CASES = 50
"""Maximum number of cases kept in a finding; all are counted."""


@dataclass(frozen=True)
class Case:
    """One occurrence of a problem.

    Attributes:
        image: path of the image file, or None if it isn't about an image.
        image_id: its id in the annotations.
        annotation: which annotation.
        box: xyxy in pixels of the image.
        note: further details.
        other: path of a second image, such as the other of two copies.
    """

    image: str | None = None
    image_id: int | None = None
    annotation: str | None = None
    box: tuple[float, float, float, float] | None = None
    note: str | None = None
    other: str | None = None

    def __str__(self) -> str:
        parts = [self.image, self.annotation, self.note]
        if self.image_id is not None:
            parts.insert(1, f"image id {self.image_id}")
        if self.box is not None:
            parts.append("xyxy " + " ".join(f"{v:g}" for v in self.box))
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        severity: how severe it is.
        kind: an identifier for programs, such as ``duplicate_boxes``.
        split: ``train``, ``val``, or empty for both.
        text: a sentence with the numbers and, if there is one, the fix.
        count: number of cases.
        cases: the worst of them, at most `MAX_CASES`.
    """

    severity: Severity
    kind: str
    split: str
    text: str
    count: int = 1
    cases: tuple[Case, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "cases", tuple(self.cases[:MAX_CASES]))

    def as_json(self) -> dict[str, Any]:
        """As JSON-serializable values."""
        return {
            "severity": self.severity,
            "kind": self.kind,
            "split": self.split or None,
            "text": self.text,
            "count": self.count,
            "cases": [
                {k: v for k, v in vars(case).items() if v is not None} for case in self.cases
            ],
        }


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; otherwise in the given order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
