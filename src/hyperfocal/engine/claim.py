"""The run folder of a training: its main process takes it, and all learn whether it could."""

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
    """Keep other trainings out of the run folder; collective.

    Raises:
        ConfigError: another process trains there, or it holds a run that is neither to be resumed
            nor to be overwritten.
    """

    def take() -> None:
        stack.enter_context(RunLock(run.path, lambda text: say(console, text)))
        if run.is_trained and not (experiment.resume or experiment.overwrite):
            raise ConfigError(
                f"{run.path} already holds a run. Add --resume to go on with it, --overwrite to "
                "replace it, or choose another --out."
            )
        if run.is_trained and experiment.resume and not run.has_checkpoint:
            raise ConfigError(
                f"{run.path} has weights but no checkpoint, so there is nothing to resume: start "
                f"from its weights with --model.weights {command(run.path)} and another --out."
            )

    with ExitStack() as stack:
        on_main(fabric, take)
        yield


def on_main(fabric: Fabric, check: Callable[[], None]) -> None:
    """Run a check in the main process alone; collective, so that nobody waits for who has ended.

    Raises:
        ConfigError: the check raised a `HyperfocalError`; in every process.
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
