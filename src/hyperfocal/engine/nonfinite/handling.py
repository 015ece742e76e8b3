"""Handling of steps whose loss or gradient isn't finite.

Reading a value means waiting for the device. With several processes that happens in every step
anyway, to agree on stopping; on a CPU it costs nothing. On a single GPU it would prevent its work
from overlapping with the host's, so there the flags are accumulated on the device and only read
before a line of the log and a checkpoint. If one is set, the run returns to its last checkpoint,
repeats the same steps (resuming is exact) and checks each: `Rewind`. Normal steps cost nothing.
"""

from __future__ import annotations

import math

from lightning_fabric import Fabric

from hyperfocal.distributed.sharding import whole
from hyperfocal.engine.nonfinite.blackbox import MOST, Incident, bad_gradients, write_black_box
from hyperfocal.engine.nonfinite.causes import likely_causes
from hyperfocal.engine.step import Gradients, Stepper, micro_batches
from hyperfocal.experiment import TrainConfig
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.writing import attempt
from hyperfocal.types import AnnotationSet, Batch

MOST_IN_A_ROW = 20
"""Skipped steps in a row after which a run stops."""


class Rewind(Exception):
    """A step since the last checkpoint was not finite; which one is unknown."""


def looks_at_each_step(fabric: Fabric) -> bool:
    """Whether reading a flag in every step has no extra cost."""
    return fabric.world_size > 1 or fabric.device.type == "cpu"


def examine(
    stepper: Stepper,
    batch: Batch,
    gradients: Gradients,
    run: RunFolder,
    annotations: AnnotationSet,
    total: int,
) -> str:
    """Write the black box of a step, undo it, and describe it; collective.

    Returns:
        The message: what isn't finite, likely causes in order, where to look, how to replay.
    """
    state, fabric, config = stepper.state, stepper.fabric, stepper.config
    wrong = bad_gradients(state.model)
    stepper.undo()
    divisors = None
    if fabric.world_size > 1:
        parts = micro_batches(len(batch), stepper.parts)
        with whole(state.model), fabric.autocast():
            divisors = state.model.divisors(batch, parts)
    incident = Incident(
        step=state.step,
        rank=fabric.global_rank,
        batch=batch,
        divisors=divisors,
        terms=tuple(gradients.terms),
        norm=float(gradients.norm),
        bad_gradients=wrong,
        causes=tuple(likely_causes(config, state.model, batch, state.step, total)),
    )
    stepper.undo()
    written = len(list(run.blackbox.glob("step-*"))) if run.blackbox.exists() else 0
    if written < MOST or incident.folder(run).exists():
        attempt(
            lambda: write_black_box(incident, run, state.model, annotations),
            run.blackbox,
            "the step can't be inspected later",
        )
        stepper.undo()
    return describe(incident, run, config)


def describe(incident: Incident, run: RunFolder, config: TrainConfig) -> str:
    """The message for the user."""
    loss = math.fsum(float(terms.total.detach()) for terms in incident.terms)
    what = f"the loss is {loss:g}"
    if math.isfinite(loss):
        what = f"the loss is {loss:g}, but the gradient's norm is {incident.norm:g}"
    causes = "\n".join(f"  {n}. {text}" for n, text in enumerate(incident.causes, start=1))
    return (
        f"step {incident.step + 1}: {what}; its update was skipped. Likely causes, most likely "
        f"first:\n{causes}\n"
        f"  See {incident.folder(run)}: images with boxes, report-*.json.\n"
        f"  Replay the step: {incident.replay_command(run)}\n"
        "  Skip such steps: --train.on-nonfinite skip"
    )
