"""Where a training runs: processes, precision, and the way of a batch through Fabric."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from lightning_fabric import Fabric, seed_everything
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hyperfocal.engine.experiment import Experiment
from hyperfocal.losses.memory import own_buffers
from hyperfocal.models import Detector
from hyperfocal.types import Batch, ConfigError


def launch(experiment: Experiment) -> Fabric:
    """Start the processes, seed them and set the arithmetic.

    Raises:
        ConfigError: the batch doesn't divide over the devices.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # our own lines suffice
    precision: Literal["bf16-mixed", "32-true"]
    precision = "bf16-mixed" if experiment.train.precision == "bf16" else "32-true"
    fabric = Fabric(
        accelerator=experiment.accelerator, devices=experiment.devices, precision=precision
    )
    if experiment.train.batch_size % fabric.world_size:
        raise ConfigError(
            f"train.batch_size = {experiment.train.batch_size} doesn't divide over "
            f"{fabric.world_size} devices; use a multiple of {fabric.world_size}"
        )
    fabric.launch()
    seed_everything(experiment.seed, verbose=False)
    torch.use_deterministic_algorithms(experiment.deterministic)
    return fabric


class Sealed:
    """Carries a batch through Fabric, which would try to rebuild every dataclass it meets."""

    __slots__ = ("batch", "normalizer")

    def __init__(self, batch: Batch, normalizer: Tensor | None) -> None:
        self.batch, self.normalizer = batch, normalizer


class TrainingForward(nn.Module):
    """What Fabric wraps: the detector's forward, its terms as a dict of tensors."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        # Where torch documents that DDP finds the names of what it must leave alone.
        ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(self, own_buffers(self))  # type: ignore[no-untyped-call]

    def forward(self, sealed: Sealed) -> dict[str, Tensor]:
        """The terms by field name of `LossTerms`; one that a detector hasn't got is left out."""
        terms = self.detector(sealed.batch, sealed.normalizer)
        values = {
            "classification": terms.classification,
            "box": terms.box,
            "positives": terms.positives,
            "quality": terms.quality,
        }
        return {name: value for name, value in values.items() if value is not None}
