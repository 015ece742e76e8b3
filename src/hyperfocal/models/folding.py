"""Folding of batch norms in eval mode into the weights of the preceding convolution.

With fixed statistics a norm is ``y = s · x + t`` per channel, ``s = γ / sqrt(var + ε)`` and
``t = β - s · mean``. Combined with the preceding convolution it is a convolution with weight
``s · W`` and bias ``t + s · b``: one pass over the activations and one stored activation fewer, in
forward and backward, and no float32 intermediate under bfloat16 autocast. W remains the parameter,
so the gradients of a convolution before a frozen norm don't change.

If a layer has fewer activations than weights, the norm isn't folded, which is faster. Parameters,
buffers and their names don't change. In training mode norms aren't folded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from hyperfocal.models.layers import StridedConv

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
"""Norms with running statistics (timm's are subclasses of these)."""


class FoldingConv2d(StridedConv):
    """A convolution that includes the following batch norm if that is in eval mode."""

    norm: nn.BatchNorm2d

    def forward(self, input: Tensor) -> Tensor:
        """The convolution, and the norm if it is in eval mode."""
        norm = self.norm
        if norm.training:
            return super().forward(input)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        height, width = input.shape[-2:]
        locations = input.shape[0] * height * width // (self.stride[0] * self.stride[1])
        if locations < self.weight[0].numel():
            # Fewer activations than weights: scaling the weights would be slower.
            return F.batch_norm(
                super().forward(input),
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                eps=norm.eps,
            )
        scale = (norm.running_var + norm.eps).rsqrt() * norm.weight
        bias = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            bias = bias + self.bias * scale
        output: Tensor = self._conv_forward(input, self.weight * scale[:, None, None, None], bias)
        return output


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that in eval mode is computed by the preceding convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """The norm in training mode, else the input."""
        return super().forward(input) if self.training else input


class FoldedBatchNormAct2d(BatchNormAct2d):
    """timm's batch norm with activation; in eval mode only the activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Norm and activation in training mode, else the activation."""
        output: Tensor = super().forward(x) if self.training else self.act(self.drop(x))  # type: ignore[no-untyped-call]
        return output


FOLDED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: FoldedBatchNorm2d,
    BatchNormAct2d: FoldedBatchNormAct2d,
}


def fold_norms(module: nn.Module, run: Callable[[], Any]) -> int:
    """Fold the batch norms of ``module`` that are the only consumer of a plain convolution.

    Args:
        module: in eval mode; modified in place.
        run: a forward pass through it, on any input, used to find which norm follows which
            convolution in any architecture.

    Returns:
        The number of norms folded.
    """
    pairs = _conv_norm_pairs(module, run)
    for conv, norm in pairs:
        # Changing the class of the object keeps parameters, hooks and state_dict keys.
        conv.__class__ = FoldingConv2d
        norm.__class__ = FOLDED[type(norm)]  # type: ignore[assignment]
        # Bypasses nn.Module.__setattr__: the norm isn't a submodule of the convolution.
        object.__setattr__(conv, "norm", norm)
    return len(pairs)


def _conv_norm_pairs(
    module: nn.Module, run: Callable[[], Any]
) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps tensors alive: no id is reused
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, Tensor]] = []
    calls: Counter[nn.Module] = Counter()

    def after_conv(conv: nn.Module, args: Any, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        calls[conv] += 1
        made[id(output)] = conv, output
        readers.count[id(output)] = 0  # the id may have been that of a freed tensor

    def before_norm(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        calls[norm] += 1
        if id(args[0]) in made:
            conv, tensor = made[id(args[0])]
            pairs.append((conv, norm, tensor))

    readers = _Readers()
    hooks = [m.register_forward_hook(after_conv) for m in _of_type(module, (nn.Conv2d,))]
    hooks += [m.register_forward_pre_hook(before_norm) for m in _of_type(module, tuple(FOLDED))]
    try:
        with readers:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (conv, norm)
        for conv, norm, tensor in pairs
        if readers.count[id(tensor)] == 1
        and calls[conv] == calls[norm] == 1
        and norm.affine
        and norm.track_running_stats
    ]


def _of_type(module: nn.Module, types: Iterable[type[nn.Module]]) -> list[nn.Module]:
    """Modules of exactly these types, because subclasses may differ."""
    return [m for m in module.modules() if type(m) in types]


class _Readers(TorchFunctionMode):
    """Counts the functions that compute a tensor from each tensor (not queries such as size)."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(x, Tensor) for x in tree_leaves(result)):
            read = tree_leaves((args, kwargs))
            self.count.update(id(x) for x in read if isinstance(x, Tensor))
        return result
