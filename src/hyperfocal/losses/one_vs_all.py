"""One-vs-all sigmoid losses from integer labels, without a one-hot tensor.

Such a loss is y·positive(x) + (1 - y)·negative(x) over all K logits of a row. With integer labels
all but at most one logit a row are negatives, so the negative form is taken everywhere and the one
value at the label is replaced. With float targets the two forms are mixed: the expected loss if y
were drawn with that probability.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyperfocal.losses.inputs import Inputs, Number

Term = Callable[..., Tensor]
"""``term(x, *parameters) -> loss``, elementwise."""


def one_vs_all(
    inputs: Inputs, positive: Term, negative: Term, *parameters: Number | None
) -> Tensor:
    """The loss of every logit, ``(..., K)``, before weights and ignored rows.

    Args:
        inputs: what `prepare` gave.
        positive: loss of a logit whose label is 1.
        negative: loss of a logit whose label is 0.
        parameters: passed on to both; a tensor of shape ``(K,)`` has one value a category.
    """
    x, targets = inputs.logits, inputs.targets
    if targets.is_floating_point():
        return targets * positive(x, *parameters) + (1 - targets) * negative(x, *parameters)
    index, is_category = label_index(targets, x.shape[-1])
    own = [p[index] if isinstance(p, Tensor) and p.ndim else p for p in parameters]
    at_label = x.gather(-1, index)
    value = torch.where(is_category, positive(at_label, *own), negative(at_label, *own))
    return negative(x, *parameters).scatter(-1, index, value)


def label_index(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Column of each row's label, ``(..., 1)``, and whether the label is a category at all.

    Background and ignored rows get some valid column, so that gather and scatter need no mask.
    """
    index = labels.clamp(0, num_classes - 1).unsqueeze(-1)
    is_category = ((labels >= 0) & (labels < num_classes)).unsqueeze(-1)
    return index, is_category
