"""Coordination of processes: signals, a common decision after each step, and a watchdog."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor
from torch.distributed import DistError

from hyperfocal.types import ConfigError, HyperfocalError


class Verdict(NamedTuple):
    """What all processes do after a step; True if any process asks for it.

    Attributes:
        bad: the loss or gradient isn't finite.
        stop: stop because of a signal.
        save: save a checkpoint.
    """

    bad: bool = False
    stop: bool = False
    save: bool = False


def agree(fabric: Fabric, bad: Tensor | None, stop: bool, save: bool) -> Verdict:
    """Combine the requests of all processes, with the same result in each; one small all-reduce.

    Args:
        fabric: Fabric of the training.
        bad: bool scalar on the device; None in a single process, which doesn't wait for it.
        stop: whether this process received a signal to stop.
        save: whether this process needs a checkpoint.
    """
    if fabric.world_size == 1:
        return Verdict(bad is not None and bool(bad), stop, save)
    assert bad is not None
    mine = torch.stack([bad.float(), *(bad.new_tensor(v).float() for v in (stop, save))])
    votes = fabric.all_reduce(mine, reduce_op="sum")
    return Verdict(*(v > 0 for v in votes.tolist()))  # type: ignore[union-attr]


SAME_SECONDS = 1.0
"""Launchers forward a Ctrl-C that the whole process group has already received: within this time,
in seconds, both count as one."""


class Abandoned(Exception):
    """Raised by a signal inside `StopRequest.abandoning`."""


class StopRequest:
    """While entered, SIGINT and SIGTERM only set ``received``; a second Ctrl-C interrupts.

    So weights are never left half-updated, and the loop can save before it stops. SIGTERM may
    arrive any number of times: launchers forward it to processes that already received it.

    Attributes:
        received: name of the signal that requested a stop, or None.
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
            except ValueError:  # only possible in the main thread
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
        """For work that can be dropped at any time: a stop request ends it with `Abandoned`."""
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


HEARTBEATS_PER_TIMEOUT = 5
LONGEST_PAUSE = 10.0
"""Longest time between two heartbeats, in seconds."""


class Watchdog:
    """A thread that ends this process when it, or one that it waits for, makes no progress.

    Does nothing in a single process.

    Args:
        seconds: longest time without progress.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.place, self.since = "starting", time.monotonic()
        self._pause = min(seconds / HEARTBEATS_PER_TIMEOUT, LONGEST_PAUSE)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
            # A separate connection: the default one may be blocked by a waiting call.
            self._store: Any = dist.distributed_c10d._get_default_store().clone()
            self._thread = threading.Thread(target=self._watch, daemon=True)

    def at(self, place: str) -> None:
        """Report progress: what this process does now."""
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
        while not self._ended.is_set():
            place, age = self.place, time.monotonic() - self.since
            try:
                self._store.set(self._key(self.rank), json.dumps([place, age, time.time()]))
                stuck = age > self.seconds
                text = self.report() if stuck else ""
            except RuntimeError as error:  # the process that hosts the store has ended
                stuck = age > self.seconds
                text = f"the other processes can't be reached ({str(error).splitlines()[0]})"
            if stuck and not self._ended.is_set():
                where = f"rank {self.rank} has been stuck for {age:.0f} s in {place}"
                sys.stderr.write(f"hyperfocal: {where}; {text}\n")
                sys.stderr.flush()
                os._exit(1)
            self._ended.wait(self._pause)  # last, so that the start is reported at once

    def report(self) -> str:
        """What the other processes do; those that are behind, or don't report, come first."""
        found = []
        for rank in range(self.world_size):
            if rank == self.rank:
                continue
            key = self._key(rank)
            if not self._store.check([key]):
                found.append((0, f"rank {rank} never reported"))
                continue
            place, age, reported_at = json.loads(self._store.get(key))
            silent = time.time() - reported_at
            if silent > 3 * self._pause:
                text = f"rank {rank} has not reported for {silent:.0f} s, last in {place}"
                found.append((1, text))
            elif place != self.place:
                found.append((2, f"rank {rank} has been in {place} for {age:.0f} s"))
            else:
                found.append((3, f"rank {rank} is waiting there too"))
        return "; ".join(text for _, text in sorted(found))

    def _key(self, rank: int) -> str:
        return f"hyperfocal/watchdog/{rank}"


def on_main(fabric: Fabric, check: Callable[[], None]) -> None:
    """Run a check in the main process only; collective, so that no process waits after a failure.

    Raises:
        ConfigError: in every process, if the check raised a `HyperfocalError`.
    """
    problem: str | None = None
    if fabric.is_global_zero:
        try:
            check()
        except HyperfocalError as error:
            problem = str(error)
    problem = fabric.broadcast(problem)
    if problem is not None:
        raise ConfigError(problem)


def lost_contact(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended."""
    text = str(error)
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "recvBytes")
    return isinstance(error, DistError) or any(sign in text for sign in signs)
