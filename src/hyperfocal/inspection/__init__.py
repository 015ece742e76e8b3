"""Checks of a user's dataset, and settings that suit it."""

from hyperfocal.inspection.advice import Advice, advise
from hyperfocal.inspection.examine import Decode, Examination, examine
from hyperfocal.inspection.findings import Case, Finding
from hyperfocal.inspection.locate import find_splits
from hyperfocal.inspection.page import write_page
from hyperfocal.inspection.proposal import Proposal
from hyperfocal.inspection.report import print_report

__all__ = [
    "Advice",
    "Case",
    "Decode",
    "Examination",
    "Finding",
    "Proposal",
    "advise",
    "examine",
    "find_splits",
    "print_report",
    "write_page",
]
