"""Stopping and agreeing: signals, one verdict for all processes, and a watchdog over them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor


class Verdict(NamedTuple):
    """What any process saw in a step.

    Attributes:
        bad: a loss or the gradient isn't finite.
        stop: a signal asked for a stop.
        save: a checkpoint is due.
    """

    bad: bool = False
    stop: bool = False
    save: bool = False


def agree(fabric: Fabric, bad: Tensor | None, stop: bool, save: bool) -> Verdict:
    """The verdict of all processes, the same in each; collective, one small all-reduce.

    Args:
        fabric: of the training.
        bad: bool scalar on the device; None in a single process that doesn't wait for it.
        stop: whether this process was asked to stop.
        save: whether this process wants a checkpoint.
    """
    if fabric.world_size == 1:
        return Verdict(bad is not None and bool(bad), stop, save)
    assert bad is not None
    mine = torch.stack([bad.float(), *(bad.new_tensor(v).float() for v in (stop, save))])
    votes = fabric.all_reduce(mine, reduce_op="sum")
    return Verdict(*(v > 0 for v in votes.tolist()))  # type: ignore[union-attr]


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


SIGNS_PER_TIMEOUT = 5
LONGEST_SILENCE = 10.0
"""Seconds between two signs of life, at most."""


class Watchdog:
    """A thread that ends this process when it, or one that it waits for, is stuck.

    With one process it does nothing.

    Args:
        seconds: longest time in one place.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.place, self.since = "starting", time.monotonic()
        self._pause = min(seconds / SIGNS_PER_TIMEOUT, LONGEST_SILENCE)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
            # A connection of its own: the other one may be held by whoever waits.
            self._store: Any = dist.distributed_c10d._get_default_store().clone()
            self._thread = threading.Thread(target=self._watch, daemon=True)

    def at(self, place: str) -> None:
        """Tell where this process is; again whenever it gets on."""
        self.place, self.since = place, time.monotonic()

    def __enter__(self) -> Watchdog:
        if self._thread is not None:
            self.at(self.place)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._pause):
            place, age = self.place, time.monotonic() - self.since
            try:
                self._store.set(self._key(self.rank), json.dumps([place, age, time.time()]))
                stuck = age > self.seconds
                text = self.report() if stuck else ""
            except RuntimeError as error:  # the store went with the process that held it
                stuck = age > self.seconds
                text = f"the others can't be asked ({str(error).splitlines()[0]})"
            if stuck and not self._ended.is_set():
                where = f"rank {self.rank} has been stuck for {age:.0f} s in {place}"
                sys.stderr.write(f"hyperfocal: {where}; {text}\n")
                sys.stderr.flush()
                os._exit(1)

    def report(self) -> str:
        """Where the other processes are; those that have not got as far, or are silent, first."""
        found = []
        for rank in range(self.world_size):
            if rank == self.rank:
                continue
            key = self._key(rank)
            if not self._store.check([key]):
                found.append((0, f"rank {rank} never gave a sign"))
                continue
            place, age, told = json.loads(self._store.get(key))
            silent = time.time() - told
            if silent > 3 * self._pause:
                text = f"rank {rank} has been silent for {silent:.0f} s, last in {place}"
                found.append((1, text))
            elif place != self.place:
                found.append((2, f"rank {rank} is in {place} since {age:.0f} s"))
            else:
                found.append((3, f"rank {rank} waits there too"))
        return "; ".join(text for _, text in sorted(found))

    def _key(self, rank: int) -> str:
        return f"hyperfocal/watchdog/{rank}"
