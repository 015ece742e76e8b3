"""Progress of long work: a bar with rate and ETA on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import time
from importlib.util import find_spec
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hyperfocal.names import one_name, say

SECONDS_BETWEEN_LINES = 15.0


class ProgressBar:
    """Progress of a job with ``total`` steps.

    A context manager. On a terminal, and in a notebook with ipywidgets, it is a live bar; elsewhere
    it prints a line every 15 seconds. ``start`` steps were done before (a resumed run) and don't
    count for the rate.
    """

    def __init__(
        self,
        console: Console,
        label: str,
        total: int,
        unit: str,
        start: int = 0,
        enabled: bool = True,
        transient: bool = False,
    ) -> None:
        self.console, self.label = console, one_name(label)
        self.total, self.unit = total, unit
        self.done = self.start = start
        self.began = self.last_line = time.monotonic()
        self.enabled = enabled
        self.live: Progress | None = None
        if enabled and (console.is_terminal or _shows_widgets(console)):
            self.live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}", markup=False),
                console=console,
                transient=transient,
            )
            self.task = self.live.add_task(
                self.label, total=total, completed=start, rate="", note=""
            )

    @property
    def rate(self) -> float:
        """Steps per second in this process."""
        return (self.done - self.start) / max(time.monotonic() - self.began, 1e-9)

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count ``steps`` as done; ``note`` replaces the text beside the bar."""
        self.done += steps
        if self.live is not None:
            fields = {"rate": f"{self.rate:.1f} {self.unit}/s"}
            if note is not None:
                fields["note"] = note
            self.live.update(self.task, completed=self.done, **fields)  # type: ignore[arg-type]
        elif self.enabled and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            left = (self.total - self.done) / max(self.rate, 1e-9)
            line = (
                f"{self.label} {self.done}/{self.total}  {self.rate:.1f} {self.unit}/s  "
                f"ETA {_clock(left)}  {note or ''}"
            )
            say(self.console, line.rstrip())

    def __enter__(self) -> ProgressBar:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.stop()


def _shows_widgets(console: Console) -> bool:
    """Whether it is a notebook in which rich can show a live bar."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
