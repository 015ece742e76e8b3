"""Ctrl-C and a scheduler's SIGTERM as a request that the loop honours between two steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SAME_SECONDS = 1.0
"""A launcher passes on the Ctrl-C that the whole group got already: within this time it counts as
one."""


class Abandoned(Exception):
    """Raised by a signal inside `StopRequest.abandoning`."""


class StopRequest:
    """While entered, SIGINT and SIGTERM only set ``received``; a second Ctrl-C interrupts.

    Weights are never left half-updated that way, and the loop can save before it stops. SIGTERM
    may come any number of times: launchers pass it on to processes that have had it.

    Attributes:
        received: name of the signal that asked for a stop, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._at = 0.0
        self._abandoning = False
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # not the main thread: whoever owns that one decides
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """For long work that leaves nothing half-done: a request ends it with `Abandoned`."""
        if self.received is not None:
            raise Abandoned
        self._abandoning = True
        try:
            yield
        finally:
            self._abandoning = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._at = signal.Signals(number).name, now
        elif number == signal.SIGINT and now - self._at > SAME_SECONDS:
            raise KeyboardInterrupt
        if self._abandoning:
            self._abandoning = False
            raise Abandoned
