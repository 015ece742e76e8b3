"""Exclusive use of a run folder: the main process locks it, and all processes get the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from lightning_fabric import Fabric
from rich.console import Console

from hyperfocal.engine.experiment import Experiment
from hyperfocal.engine.run_folder import RunFolder
from hyperfocal.engine.run_lock import RunLock
from hyperfocal.names import command, say
from hyperfocal.types import ConfigError, HyperfocalError


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
