"""One-vs-all sigmoid losses from integer labels, without a one-hot tensor.

Such a loss is y·positive(x) + (1 - y)·negative(x) over all K logits of a row. With integer labels
all but at most one logit a row are negatives, so the negative form is taken everywhere and the one
value at the label is replaced. With float targets the two forms are mixed: the expected loss if y
were drawn with that probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfocal.losses.inputs import Inputs, Number

Term = Callable[..., Tensor]
"""``term(x, *parameters)``, elementwise."""


def one_vs_all(
    inputs: Inputs,
    positive: Term,
    negative: Term,
    *parameters: Number | None,
    quality: Tensor | None = None,
) -> Tensor:
    """The loss of every logit, ``(..., K)``, before weights and ignored rows.

    Args:
        inputs: what `prepare` gave.
        positive: loss of a logit whose label is 1.
        negative: loss of a logit whose label is 0.
        parameters: passed on to both; a tensor of shape ``(K,)`` has one value a category.
        quality: ``(...)``, a value a row that ``positive`` takes before the parameters; with
            integer labels only.
    """
    x, targets = inputs.logits, inputs.targets
    if targets.is_floating_point():
        return targets * positive(x, *parameters) + (1 - targets) * negative(x, *parameters)
    label = _at_label(inputs, parameters, quality)
    value = torch.where(
        label.is_category,
        positive(label.logits, *label.quality, *label.parameters),
        negative(label.logits, *label.parameters),
    )
    return negative(x, *parameters).scatter(-1, label.index, value)


@torch.no_grad()
def one_vs_all_sums(
    inputs: Inputs,
    positive: Term,
    negative: Term,
    *parameters: Number | None,
    quality: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per category, ``positive`` summed over its positives and ``negative`` over all the rest.

    Takes what `one_vs_all` takes (usually the sizes of its terms' gradients) and leaves ignored
    elements out. Nothing is got by subtraction: a category's negatives are many and tiny, and
    would drown in the rounding of its few large positives.

    Returns:
        Two ``(K,)`` tensors of the logits' dtype.
    """
    x, targets = inputs.logits, inputs.targets
    k = x.shape[-1]
    negatives = negative(x, *parameters)
    if targets.is_floating_point():
        positives = targets * positive(x, *parameters)
        negatives = (1 - targets) * negatives
        if inputs.kept is not None:
            positives = torch.where(inputs.kept, positives, 0.0)
            negatives = torch.where(inputs.kept, negatives, 0.0)
        return positives.reshape(-1, k).sum(0), negatives.reshape(-1, k).sum(0)
    label = _at_label(inputs, parameters, quality)
    at_label = positive(label.logits, *label.quality, *label.parameters)
    at_label = torch.where(label.is_category, at_label, 0.0)
    positives = x.new_zeros(k).index_add(0, label.index.flatten(), at_label.flatten())
    rest = torch.where(label.is_category, 0.0, negatives.gather(-1, label.index))
    negatives = negatives.scatter(-1, label.index, rest)
    if inputs.kept is not None:
        negatives = torch.where(inputs.kept, negatives, 0.0)
    return positives, negatives.reshape(-1, k).sum(0)


def label_index(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Column of each row's label, ``(..., 1)``, and whether the label is a category at all.

    Background and ignored rows get some valid column, so that gather and scatter need no mask.
    """
    index = labels.clamp(0, num_classes - 1).unsqueeze(-1)
    is_category = ((labels >= 0) & (labels < num_classes)).unsqueeze(-1)
    return index, is_category


@dataclass(frozen=True)
class _AtLabel:
    """What belongs to each row's label; tensors are ``(..., 1)``."""

    index: Tensor
    is_category: Tensor
    logits: Tensor
    parameters: Sequence[Number | None]
    quality: Sequence[Tensor]


def _at_label(
    inputs: Inputs, parameters: Sequence[Number | None], quality: Tensor | None
) -> _AtLabel:
    index, is_category = label_index(inputs.targets, inputs.logits.shape[-1])
    return _AtLabel(
        index,
        is_category,
        inputs.logits.gather(-1, index),
        [p[index] if isinstance(p, Tensor) and p.ndim else p for p in parameters],
        () if quality is None else (quality.to(inputs.logits.dtype).unsqueeze(-1),),
    )
