"""Starts the processes of a training, with their precision and seed."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from typing import Literal

import torch
from lightning_fabric import Fabric, seed_everything
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch.distributed.device_mesh import DeviceMesh

from hyperfocal.device import find_device, resolve, warn_if_emulated
from hyperfocal.distributed.sharding import shard
from hyperfocal.experiment import Experiment
from hyperfocal.types import ConfigError


def launch(experiment: Experiment) -> Fabric:
    """Start the processes, and set their seed and precision.

    Under torchrun or SLURM the processes are already running; their number is taken from there.

    Raises:
        ConfigError: fewer images in a batch than processes, or settings that exclude each other.
    """
    logging.getLogger("lightning_fabric").setLevel(
        logging.WARNING
    )  # hyperfocal prints its own messages
    wanted, device = experiment.train.precision, _device_type(experiment)
    precision: Literal["bf16-mixed", "32-true"]
    precision = "bf16-mixed" if resolve(wanted, device) == "bf16" else "32-true"
    nodes, devices = started_processes() or (1, experiment.devices)
    if experiment.train.batch_size < nodes * devices:
        raise ConfigError(
            f"train.batch_size = {experiment.train.batch_size} is less than one image for each of "
            f"{nodes * devices} processes; use at least {nodes * devices}"
        )
    if experiment.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    fabric = Fabric(
        accelerator=experiment.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(experiment, nodes * devices),
        precision=precision,
    )
    fabric.launch()
    if fabric.is_global_zero:
        warn_if_emulated(wanted, device)
    seed_everything(experiment.seed, verbose=False)
    torch.use_deterministic_algorithms(experiment.deterministic)
    return fabric


def started_processes() -> tuple[int, int] | None:
    """Nodes, and processes per node, if torchrun or SLURM's srun started this process."""
    if TorchElasticEnvironment.detect():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return int(os.environ["WORLD_SIZE"]) // local, local
    if SLURMEnvironment.detect() and "SLURM_NTASKS_PER_NODE" in os.environ:
        return int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
    return None


def _device_type(experiment: Experiment) -> str:
    if experiment.accelerator != "auto":
        return find_device(experiment.accelerator).type
    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type


def _strategy(experiment: Experiment, processes: int) -> Strategy | str:
    if processes == 1:
        return "auto"
    # Longer than the watchdog's, which reports the process that is behind.
    timeout = timedelta(seconds=experiment.timeout + 60)
    if experiment.strategy == "ddp":
        return DDPStrategy(timeout=timeout)
    if experiment.train.micro_batches == "auto":
        raise ConfigError(
            "train.micro_batches = auto doesn't work with strategy fsdp; give a number"
        )
    return ModelParallelStrategy(
        shard, data_parallel_size=processes, tensor_parallel_size=1, timeout=timeout
    )


def mesh_of(fabric: Fabric) -> DeviceMesh | None:
    """The device mesh over which weights are sharded; None if they aren't."""
    strategy = fabric.strategy
    return strategy.device_mesh if isinstance(strategy, ModelParallelStrategy) else None
