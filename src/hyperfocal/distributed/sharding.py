"""Sharded weights (FSDP); checkpoints have one format, whatever the number of processes.

With ``fully_shard`` each process holds a part of each parameter and of its optimizer state, as
`DTensor`; they are gathered for a forward pass, and here for a checkpoint. Without sharding the
functions here return their inputs. Buffers are never sharded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from hyperfocal.models import Detector


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard the parameters of ``module`` over the data-parallel processes, child by child."""
    module.to(memory_format=torch.contiguous_format)  # required by fully_shard
    data = mesh["data_parallel"]
    for child in _units(module):
        fully_shard(child, mesh=data)
    fully_shard(module, mesh=data)
    return module


def _units(module: nn.Module) -> list[nn.Module]:
    """Modules that are gathered separately: a backbone's stages needn't all be gathered at once.

    Heads and necks are left to the root: a detector calls their parts one by one.
    """
    detectors = [child for child in module.modules() if isinstance(child, Detector)]
    return [d.get_submodule(d.backbone_part) for d in detectors if d.backbone_part is not None]


def full(value: Tensor) -> Tensor:
    """A tensor gathered from its shards; collective if there are any."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This process's shard of a tensor, sharing its memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """``module.state_dict()`` with full tensors; collective if sharded."""
    return {name: full(value) for name, value in module.state_dict().items()}


def load_full_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of `full_state`.

    Raises:
        RuntimeError: names or shapes differ.
    """
    own = module.state_dict()
    module.load_state_dict(
        {name: _like(value, own[name]) if name in own else value for name, value in state.items()}
    )


def full_optimizer_state(optimizer: optim.Optimizer) -> dict[str, Any]:
    """``optimizer.state_dict()`` with full tensors; collective if sharded."""
    saved = optimizer.state_dict()
    state = {
        n: {k: full(v) if isinstance(v, Tensor) else v for k, v in slots.items()}
        for n, slots in saved["state"].items()
    }
    return {"state": state, "param_groups": saved["param_groups"]}


def shard_optimizer_state(optimizer: optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """The result of `full_optimizer_state`, sharded like the optimizer's parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        n: {
            k: _like(v, parameters[n]) if isinstance(v, Tensor) and v.ndim else v
            for k, v in slots.items()
        }
        for n, slots in saved["state"].items()
    }
    return saved | {"state": state}


def _like(value: Tensor, own: Tensor) -> Tensor:
    if not isinstance(own, DTensor) or own.shape != value.shape:
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Gather the parameters while the module is used other than through its forward."""
    units = [m for m in module.modules() if isinstance(m, FSDPModule)]
    with ExitStack() as stack:
        for unit in units:
            unit.unshard()
            stack.callback(unit.reshard)
        yield


def is_sharded(module: nn.Module) -> bool:
    """Whether the parameters are sharded."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def largest(module: nn.Module) -> float:
    """Largest absolute weight in this process's shards."""
    parts = [local(p.detach()) for p in module.parameters()]
    return max(float(torch.nan_to_num(p, nan=torch.inf).abs().max()) for p in parts if p.numel())
