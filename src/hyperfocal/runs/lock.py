"""One writer per run folder: ``RUN/lock.json`` names the process that trains there.

Between processes of one machine the operating system's lock on that file decides. It is released
when its process ends, even if killed, so a file left behind is recognised as stale at once. It
doesn't keep the threads of one process apart: a table of the folders they hold does. Such
locks don't work across all machines, so the owner also touches the file every few seconds; a file
of another machine is stale if it isn't touched for longer.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from lightning_fabric import Fabric
from rich.console import Console

from hyperfocal.distributed.coordination import on_main
from hyperfocal.experiment import Experiment
from hyperfocal.names import command, say
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import ConfigError, HyperfocalError

if sys.platform != "win32":  # which has no fcntl
    import fcntl

BEAT = 5.0
"""Seconds between two touches."""
SILENCE = 30.0
"""Seconds without a touch after which a run on another machine is considered ended."""

_held: dict[tuple[int, int, int], RunLock] = {}
"""The locks that threads of this process hold, by process (forks copy the table), device and inode
of the folder."""


@dataclass(frozen=True)
class Holder:
    """The process that trains in a run folder: its id, its machine, and when it started."""

    process: int
    host: str
    started: str


class RunLock:
    """While entered, no other process or thread can train in a run folder.

    The folder is created if missing, and removed again if nothing was written to it.

    Args:
        folder: the run folder.
        notify: called with a message while waiting to see whether another machine's lock is stale.

    Raises:
        ConfigError: on entering, if another process or thread trains there; the message names it.
        HyperfocalError: on entering, if the folder can't be written.
    """

    def __init__(self, folder: Path, notify: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.path, self.notify = folder, folder / "lock.json", notify
        self._descriptor: int | None = None
        self._made: list[Path] = []
        self._key = (0, 0, 0)
        self._ended = threading.Event()

    def __enter__(self) -> RunLock:
        missing = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._made = missing  # the innermost first
            found = self.folder.stat()
            self._key = (os.getpid(), found.st_dev, found.st_ino)
            # Before the file is opened: closing it would release the other thread's system lock.
            if _held.setdefault(self._key, self) is not self:
                raise ConfigError(
                    f"{self.folder}: another thread of this process is training here. Wait until "
                    "it ends, or choose another --out."
                )
            try:
                while not self._take():
                    pass
            except BaseException:
                del _held[self._key]
                raise
        except OSError as error:
            self._remove_folders()
            raise HyperfocalError(f"{self.folder}: can't be written ({error.strerror})") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._descriptor is not None
        self._ended.set()
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._descriptor)
        del _held[self._key]
        self._remove_folders()

    def _take(self) -> bool:
        """Take the lock; False if its file was removed in the meantime, by its previous owner."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            free = _lock(descriptor)
            holder = _read(descriptor)
            if free is not False and holder is not None:
                here = holder.host == socket.gethostname()
                if not (here and free):  # not covered by the system's lock
                    # Opening and closing the file released the lock: take it again.
                    free = self._silent(holder) and _lock(descriptor)
            if free is False:
                raise ConfigError(self._busy(holder))
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(descriptor).st_ino == self.path.stat().st_ino:
                    _write(descriptor)
                    self._descriptor, descriptor = descriptor, -1
                    threading.Thread(target=self._beat, daemon=True).start()
                    return True
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _silent(self, holder: Holder) -> bool:
        """Whether the file isn't touched for `SILENCE` seconds; no clocks are compared."""
        self.notify(
            f"{self.path} names process {holder.process} on {holder.host}: checking for "
            f"{SILENCE:g} s whether it is still training here"
        )
        first, until = self._touched(), time.monotonic() + SILENCE
        while time.monotonic() < until:
            time.sleep(min(1.0, SILENCE / 4))
            if self._touched() != first:
                return False
        return True

    def _touched(self) -> int | None:
        try:
            with self.path.open("rb") as file:  # opening refreshes a network file system's cache
                return os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def _beat(self) -> None:
        assert self._descriptor is not None
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _busy(self, holder: Holder | None) -> str:
        if holder is None:
            return f"{self.folder}: another process is training here. Choose another --out."
        where = "" if holder.host == socket.gethostname() else f" on {holder.host}"
        return (
            f"{self.folder}: process {holder.process}{where} has been training here since "
            f"{holder.started}. Wait until it ends, stop it (kill {holder.process}), or choose "
            "another --out."
        )

    def _remove_folders(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # something was written to it
                return


def _lock(descriptor: int) -> bool | None:
    """Whether this process has the lock now; None if the system or its disk has no locks."""
    if sys.platform == "win32":
        return None
    try:
        # Not flock, whose lock a loader process would share and keep when this one is killed.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _read(descriptor: int) -> Holder | None:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        data = json.loads(os.read(descriptor, 4096))
        return Holder(int(data["process"]), str(data["host"]), str(data["started"]))
    except (ValueError, KeyError, TypeError):  # empty, or written by another program
        return None


def _write(descriptor: int) -> None:
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    text = json.dumps(asdict(Holder(os.getpid(), socket.gethostname(), now)), indent=1)
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode() + b"\n")
    os.fsync(descriptor)


@contextmanager
def claimed(
    experiment: Experiment, run: RunFolder, fabric: Fabric, console: Console
) -> Iterator[None]:
    """Lock the run folder for one training; collective.

    Raises:
        ConfigError: another process is training there, or the folder contains a run and neither
            ``resume`` nor ``overwrite`` is set.
    """

    def take() -> None:
        stack.enter_context(RunLock(run.path, lambda text: say(console, text)))
        if run.is_trained and not (experiment.resume or experiment.overwrite):
            raise ConfigError(
                f"{run.path} already contains a run. Add --resume to continue it, --overwrite to "
                "replace it, or choose another --out."
            )
        if run.is_trained and experiment.resume and not run.has_checkpoint:
            raise ConfigError(
                f"{run.path} has weights but no checkpoint, so it can't be resumed: start from "
                f"its weights with --model.weights {command(run.path)} and another --out."
            )

    with ExitStack() as stack:
        on_main(fabric, take)
        yield
