"""Trains the runs of a table: one process and run folder each, several at a time, resumable."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperfocal.distributed.coordination import StopRequest
from hyperfocal.reproduce.judge import Outcome
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import read_json, write_json
from hyperfocal.types import HyperfocalError

POLL_SECONDS = 0.1
STOPPED = "the run is saved in"
"""Printed by `hyperfocal train` if a signal ended it before its last step."""
NOT_FINITE = re.compile(r"step (\d+): the loss is ")
"""Printed for a step whose loss or gradient isn't finite."""


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        row: of the table.
        seed: of the run.
        folder: its run folder.
        words: arguments of `hyperfocal train`, without ``--out`` and ``--resume``.
        after: the training whose weights it starts from, which has to be finished before.
    """

    row: str
    seed: int
    folder: Path
    words: tuple[str, ...]
    after: Job | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the training that it starts from is finished."""
        if self.after is None:
            return True
        first = self.after.outcome()
        return first is not None and first.diverged_at is None

    @property
    def is_blocked(self) -> bool:
        """Whether the training that it starts from has diverged, so that it can't be trained."""
        first = None if self.after is None else self.after.outcome()
        return first is not None and first.diverged_at is not None

    @property
    def record(self) -> Path:
        """File with how it ended, and after how many seconds."""
        return self.folder / "outcome.json"

    @property
    def log(self) -> Path:
        """File with its output."""
        return self.folder / "log.txt"

    def outcome(self) -> Outcome | None:
        """Its result; None if it isn't finished."""
        state = self._state()
        if state.get("state") == "diverged":
            return Outcome({}, int(state["step"]))
        if state.get("state") != "finished":
            return None
        found = read_json(RunFolder(self.folder).metrics)["metrics"]
        known = {k: v for k, v in found.items() if v is not None and math.isfinite(v)}
        return Outcome({k: 100 * v if k.startswith("AP") else v for k, v in known.items()})

    def ending(self) -> str:
        """How it ended, in words."""
        outcome = self.outcome()
        if self.is_blocked and self.after is not None:
            return f"not trained, because {self.after.row} diverged"
        if outcome is None:
            return "interrupted"
        if outcome.diverged_at is not None:
            return f"diverged at step {outcome.diverged_at}"
        metric = "AP" if "AP" in outcome.metrics else "AP50"  # Open Images only has AP50
        return f"{metric} {outcome.metrics.get(metric, float('nan')):.1f}"

    def seconds(self) -> float:
        """Time spent on it so far, over all its parts."""
        return float(self._state().get("seconds", 0.0))

    def machine(self) -> str:
        """Versions and hardware of the run."""
        path = RunFolder(self.folder).environment
        known = read_json(path) if path.exists() else {}
        packages = known.get("packages", {})
        named = ("hyperfocal", "torch", "torchvision", "timm")
        versions = ", ".join(f"{name} {packages[name]}" for name in named if name in packages)
        gpus = ", ".join(known.get("gpus", ()))
        cpu = f"{known.get('threads')} thread(s) of {known.get('cpu_count')} CPU cores"
        precision = f", {known['precision']}" if known.get("precision") else ""
        return f"{versions}; {known.get('system')}, {gpus or cpu}{precision}"

    def _state(self) -> Mapping[str, float | str]:
        if not self.record.exists():
            return {}
        state: Mapping[str, float | str] = read_json(self.record)
        return state


@dataclass
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    began: float
    log_start: int


def run_jobs(
    jobs: Sequence[Job],
    at_a_time: int,
    gpus: int,
    done: Callable[[Job], None],
    threads: int | None = None,
) -> str | None:
    """Train the jobs that aren't finished.

    Args:
        jobs: in order; finished ones are skipped. A job that starts from another one's weights
            waits for it, and is skipped if that one has diverged.
        at_a_time: number of parallel processes; they use GPUs in turn.
        gpus: number of GPUs.
        done: called when a job has a result, or has failed.
        threads: of each process; None: its share of the CPU's cores.

    Returns:
        The signal that ended it early, or None. All runs have been saved before that.

    Raises:
        HyperfocalError: a run ended for another reason than its loss; the message has its last
            output. Runs in parallel with it are stopped and saved.
    """
    waiting = [job for job in jobs if job.outcome() is None]
    if threads is None:
        cores = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        threads = max(1, cores // at_a_time)
    free, running = list(range(at_a_time)), list[_Running]()
    with StopRequest() as stop:
        try:
            while (waiting and stop.received is None) or running:
                for job in [job for job in waiting if job.is_blocked]:
                    waiting.remove(job)
                    done(job)
                while free and stop.received is None:
                    ready = next((job for job in waiting if job.is_ready), None)
                    if ready is None:
                        break
                    waiting.remove(ready)
                    running.append(_start(ready, free.pop(0), threads, gpus))
                if stop.received is not None:
                    waiting.clear()
                    _end(running)
                for one in [r for r in running if r.process.poll() is not None]:
                    running.remove(one)
                    free.append(one.slot)
                    _record(one)
                    done(one.job)
                time.sleep(POLL_SECONDS)
        finally:
            _end(running)
    return stop.received


def _start(job: Job, slot: int, threads: int, gpus: int) -> _Running:
    job.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "hyperfocal.cli", "train", *job.words]
    command += ["--out", str(job.folder), "--resume"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if gpus > 1:
        environment["CUDA_VISIBLE_DEVICES"] = _gpu(slot, gpus)
    with job.log.open("ab") as log:
        start = log.tell()
        # A new session, so that Ctrl-C only reaches this process, which forwards it once.
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    return _Running(job, slot, process, time.monotonic(), start)


def _gpu(slot: int, gpus: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(n) for n in range(gpus)]
    return names[slot % len(names)]


def _end(running: Iterable[_Running]) -> None:
    """Ask the runs to save and wait until they have; `StopRequest` only counts one request."""
    for one in [r for r in running if r.process.poll() is None]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGTERM)
    for one in running:
        one.process.wait()


def _record(one: _Running) -> None:
    """Write how a run ended.

    Raises:
        HyperfocalError: it was neither finished, nor stopped, nor diverged.
    """
    with one.job.log.open("rb") as file:
        file.seek(one.log_start)
        said = file.read().decode(errors="replace")
    found: dict[str, float | str] = {
        "seconds": round(one.job.seconds() + time.monotonic() - one.began, 1)
    }
    diverged = NOT_FINITE.search(said)
    code = one.process.returncode
    if diverged and code:
        found |= {"state": "diverged", "step": int(diverged[1])}
    elif STOPPED in said or code in (130, -signal.SIGINT, -signal.SIGTERM):
        found |= {"state": "interrupted"}
    elif code == 0 and RunFolder(one.job.folder).metrics.exists():
        found |= {"state": "finished"}
    else:
        last = "\n".join(said.strip().splitlines()[-6:]) or "nothing"
        raise HyperfocalError(
            f"{one.job.folder}: the run ended with status {code}. Its last output:\n{last}\n"
            f"All output is in {one.job.log}. Fix the cause and repeat the command: finished runs "
            "are kept."
        )
    write_json(one.job.record, found)


def same_or_write(path: Path, manifest: Mapping[str, object]) -> str | None:
    """Record what the folder's runs have in common; returns the first entry that has changed."""
    if path.exists():
        old, new = read_json(path), json.loads(json.dumps(manifest))
        for name in new:
            if old.get(name) != new[name]:
                return f"{name} was {old.get(name)!r}, now it is {new[name]!r}"
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(manifest))
    return None
