"""Ctrl-C and a scheduler's SIGTERM as a request that the loop honours between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets ``received``; a second one interrupts.

    Weights are never left half-updated that way, and the loop can save before it stops.

    Attributes:
        received: name of the signal that asked for a stop, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
