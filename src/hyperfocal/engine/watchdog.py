"""Who waits for whom: a run whose processes wait for one that is stuck ends and names it.

Each process tells a thread of its own where it is. The thread tells the others through the store
that they met at. A process that has been in one place for too long reads where the others are,
prints it and ends; a launcher such as torchrun can then start the group again.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

import torch.distributed as dist

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
