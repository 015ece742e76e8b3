"""Worker processes of the loader, which leave Ctrl-C and SIGTERM to the main process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hyperfocal.data.images import limit_pixels

_OURS = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Context that blocks signals while workers start; they inherit this until they ignore
    signals."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(max_pixels: int, worker: int) -> None:
    """Set up a worker process.

    Args:
        max_pixels: largest number of pixels of an image.
        worker: its number.
    """
    limit_pixels(max_pixels)  # where workers don't inherit it
    # Ctrl-C and a scheduler's SIGTERM reach the whole process group. The main process decides what
    # to do about them and ends its workers; one that died by itself would break the checkpoint
    # being saved. A worker whose main process was killed notices and ends too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "pthread_sigmask"):
        return
    if hasattr(signal, "sigwaitinfo"):  # Linux: SIGTERM stays blocked, and a thread takes it
        threading.Thread(target=_end_for_parent, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)


def _end_for_parent() -> None:
    """Exit on SIGTERM from the main process, and ignore it from others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
