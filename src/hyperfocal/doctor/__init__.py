"""What is wrong with a person's data, and which settings suit it."""

from hyperfocal.doctor.advice import Advice, advise
from hyperfocal.doctor.examine import Decode, Examination, examine
from hyperfocal.doctor.findings import Case, Finding
from hyperfocal.doctor.locate import find_splits
from hyperfocal.doctor.page import write_page
from hyperfocal.doctor.proposal import Proposal
from hyperfocal.doctor.report import print_report

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
