"""Reuses runs that several tables share: same settings, seed and data, so trained once.

Focal loss with gamma 2, for example, is a row of Tables 1b, 1d and 3.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperfocal import config as configs
from hyperfocal.data.synthetic import generated_with
from hyperfocal.experiment import Experiment
from hyperfocal.reproduce.runs import Job
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import read_json
from hyperfocal.types import ConfigError

WHERE = ("out", "resume", "overwrite")
"""Settings about the location of a run, which don't affect its result."""


def link_runs(
    jobs: Sequence[Job], experiments: Sequence[Experiment], folders: Sequence[Path]
) -> int:
    """Link jobs that haven't started to finished runs of another table with the same config.

    Versions of the program and libraries are not compared; each run folder records its own.

    Args:
        jobs: of this table.
        experiments: their complete configs, in the same order.
        folders: other tables' ``--out``.

    Returns:
        Number of jobs linked; their folders are then links.

    Raises:
        ConfigError: a folder without a finished run.
    """
    known: dict[str, Path] = {}
    for folder in folders:
        done = [path.parent for path in sorted(folder.glob("*/outcome.json")) if _is_done(path)]
        if not done:
            raise ConfigError(
                f"--reuse {folder}: no finished run of `hyperfocal reproduce` in this folder"
            )
        known |= {_identity(read_json(RunFolder(run).config)): run for run in reversed(done)}
    linked = 0
    for job, experiment in zip(jobs, experiments, strict=True):
        found = known.get(_identity(configs.dump(experiment)))
        if found is None or job.folder.exists():
            continue
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        job.folder.symlink_to(os.path.relpath(found.resolve(), job.folder.parent.resolve()))
        linked += 1
    return linked


def _is_done(record: Path) -> bool:
    return read_json(record).get("state") in ("finished", "diverged")


def _identity(config: dict[str, Any]) -> str:
    """A config as text; a synthetic dataset is identified by its settings, not by path."""
    config = {name: value for name, value in config.items() if name not in WHERE}
    config = json.loads(json.dumps(config))
    for split in ("train", "val"):
        files = config["data"][split]
        for name, path in files.items():
            if isinstance(path, str) and (marker := generated_with(Path(path).parent)) is not None:
                files[name] = [marker, Path(path).name]
    return json.dumps(config, sort_keys=True)
