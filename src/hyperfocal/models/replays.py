"""Inference with CUDA graphs, which launch all kernels of a network at once.

At inference on a few images a GPU waits for the host, which takes longer to launch a convolution
than the GPU takes to run it. A CUDA graph is captured once per input shape and then launched as a
whole. It runs the same kernels on the same weights, so the results are the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

AFTER = 2
"""Number of calls with a shape before it is captured."""
KEPT = 4
"""Maximum number of graphs; the least recently used is dropped first."""
COUNTED = 256
"""Maximum number of shapes whose calls are counted."""
LARGEST = 3 << 22
"""Elements of the largest input that is captured, 4 million pixels: larger ones keep the GPU busy
without a graph, and graphs use memory."""


class Recording(NamedTuple):
    """A captured function for one input shape.

    Attributes:
        given: input buffer.
        replay: runs the graph.
        outputs: output buffers.
    """

    given: Tensor
    replay: Callable[[], None]
    outputs: Any


class Replays:
    """The CUDA graphs of one module. They aren't copied or saved with the module."""

    def __init__(self) -> None:
        self._calls: OrderedDict[Hashable, int] = OrderedDict()
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._failed = False

    def __call__(self, function: Callable[[Tensor], Any], module: nn.Module, given: Tensor) -> Any:
        """``function(given)``, replayed if possible and if the shape occurs repeatedly.

        The next call may overwrite the outputs. If capturing fails (for example because the
        function synchronises with the GPU), the function is called normally.

        Args:
            function: the same function in all calls. It may only depend on the input and on the
                module's parameters and buffers, whose values may change.
            module: in eval mode, else the function is called normally.
            given: the input.
        """
        if self._failed or not can_be_replayed(module, given):
            return function(given)
        key = _key(module, given)
        if key not in self._recordings:
            self._calls[key] = self._calls.pop(key, 0) + 1
            if len(self._calls) > COUNTED:
                self._calls.popitem(last=False)
            if self._calls[key] <= AFTER or not self._record(key, function, given):
                return function(given)
        self._recordings.move_to_end(key)
        recording = self._recordings[key]
        recording.given.copy_(given)
        recording.replay()
        return recording.outputs

    def _record(self, key: Hashable, function: Callable[[Tensor], Any], given: Tensor) -> bool:
        try:
            recording = record(function, given.clone())
        except RuntimeError:
            self._failed = True
            self._recordings.clear()
            return False
        self._recordings[key] = recording
        if len(self._recordings) > KEPT:
            self._recordings.popitem(last=False)
        del self._calls[key]
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> Replays:
        return Replays()

    def __reduce__(self) -> tuple[type[Replays], tuple[()]]:
        return Replays, ()


def can_be_replayed(module: nn.Module, given: Tensor) -> bool:
    """Whether a replay is equivalent to a call: inference on a GPU without hooks or tracing."""
    return (
        given.is_cuda
        and given.numel() <= LARGEST
        and not torch.is_grad_enabled()
        and not any(
            m.training or m._forward_hooks or m._forward_pre_hooks for m in module.modules()
        )
        and not (dist.is_available() and dist.is_initialized())
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and not torch.cuda.is_current_stream_capturing()
    )


def _is_watched(part: nn.Module) -> bool:
    return bool(part.training or part._forward_hooks or part._forward_pre_hooks)


def _key(module: nn.Module, given: Tensor) -> Hashable:
    """Everything that a graph depends on except values."""
    kind = given.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    places = tuple(t.data_ptr() for t in (*module.parameters(), *module.buffers()))
    settings = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    return given.shape, given.stride(), given.dtype, given.device, autocast, settings, places


def record(function: Callable[[Tensor], Any], given: Tensor) -> Recording:
    """Capture ``function(given)`` as a CUDA graph.

    Raises:
        RuntimeError: it can't be captured.
    """
    graph, kind = torch.cuda.CUDAGraph(), given.device.type
    # Autocast's cache could keep casts of weights in the graph's memory, or use outdated ones.
    autocast = torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
    with torch.cuda.device(given.device), torch.cuda.graph(graph), autocast:
        outputs = function(given)
    return Recording(given, graph.replay, tree_map_only(Tensor, torch.detach, outputs))
