"""One-vs-all sigmoid losses from integer labels, without a one-hot tensor.

Such a loss is own_j·term(x_j) where category j is the row's label and rest_j·term(-x_j) everywhere
else, for a term of x_t (see `terms`) and two factors per category, for example alpha and 1 - alpha.
With integer labels at most one logit per row is positive, so the negative form is computed for all
logits and replaced at the label. A float target y gives y times the positive form plus 1 - y times
the negative form: the expected loss if the label is sampled with probability y.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_range, per_category
from hyperfocal.losses._core.inputs import Inputs
from hyperfocal.types import DataError

Term = Callable[..., Tensor]
"""``term(x_t, *parameters)``, elementwise."""


def balance(alpha: Number | None, logits: Tensor) -> tuple[Number | None, Number | None]:
    """The factors of positives and negatives, ``(alpha, 1 - alpha)``; Nones if alpha is None.

    Raises:
        ConfigError: alpha outside [0, 1] or of a shape that doesn't fit.
    """
    if alpha is None:
        return None, None
    alpha = per_category(alpha, "alpha", logits, 0, 1)
    return alpha, 1 - alpha


def one_vs_all(
    inputs: Inputs,
    term: Term,
    *parameters: Number,
    own: Number | None = None,
    rest: Number | None = None,
) -> Tensor:
    """The loss of every logit, ``(..., K)``, before weights and ignored rows.

    Args:
        inputs: the result of `prepare`.
        term: loss of a logit as a function of x_t.
        parameters: passed on to ``term``; a ``(K,)`` tensor has one value per category.
        own: factor of positives, a number or ``(K,)``; None: 1.
        rest: factor of negatives, a number or ``(K,)``; None: 1.
    """
    x, targets = inputs.logits, inputs.targets
    negative = times(term(-x, *parameters), rest)
    if targets.is_floating_point():
        return targets * times(term(x, *parameters), own) + (1 - targets) * negative
    return replace_at_label(negative, inputs, _at_labels(inputs, term, parameters, own))


@torch.no_grad()
def one_vs_all_sums(
    inputs: Inputs,
    term: Term,
    *parameters: Number,
    own: Number | None = None,
    rest: Number | None = None,
) -> tuple[Tensor, Tensor]:
    """Per category, own·term(x) summed over its positives and rest·term(-x) over all the rest.

    Takes the arguments of `one_vs_all` (``term`` is usually the absolute value of a gradient).
    Ignored elements are excluded.

    Returns:
        Two ``(K,)`` tensors of the logits' dtype.
    """
    x, targets = inputs.logits, inputs.targets
    negative = times(term(-x, *parameters), rest)
    if targets.is_floating_point():
        positive = targets * times(term(x, *parameters), own)
        return sum_rows(positive, inputs), sum_rows((1 - targets) * negative, inputs)
    return sums_by_label(inputs, _at_labels(inputs, term, parameters, own), negative)


def one_vs_all_soft(
    inputs: Inputs,
    quality: Tensor | None,
    positive: Term,
    negative: Term,
    *parameters: Number,
) -> Tensor:
    """`one_vs_all` where the target of an object is a quality q in [0, 1] instead of 1.

    Args:
        inputs: the result of `prepare`; float targets are the qualities, and are detached.
        quality: ``(...)``, q of each row's label, with integer labels; None: 1.
        positive: ``positive(x, q, *parameters)``, the loss where q > 0.
        negative: ``negative(x, *parameters)``, the loss elsewhere.
        parameters: numbers, or ``(K,)`` tensors with one value per category.
    """
    x, targets = inputs.logits, inputs.targets
    if targets.is_floating_point():
        if quality is not None:
            raise DataError("quality needs integer labels; float targets already are qualities")
        q = targets.detach()
        return torch.where(q > 0, positive(x, q, *parameters), negative(x, *parameters))
    index, _ = label_index(targets, x.shape[-1])
    q = quality_at_label(inputs, quality)
    at = x.gather(-1, index)
    own = [at_label(p, index) for p in parameters]
    value = torch.where(q > 0, positive(at, q, *own), negative(at, *own))
    return replace_at_label(negative(x, *parameters), inputs, value)


def quality_at_label(inputs: Inputs, quality: Tensor | None) -> Tensor:
    """Q of each row, ``(..., 1)``, 1 where the row isn't an object.

    Raises:
        DataError: a shape that isn't the labels', or (on the CPU) values outside [0, 1].
    """
    _, is_category = label_index(inputs.targets, inputs.logits.shape[-1])
    if quality is None:
        return torch.ones_like(is_category, dtype=inputs.logits.dtype)
    if quality.shape != inputs.targets.shape:
        raise DataError(
            f"quality has shape {tuple(quality.shape)}, but the labels have "
            f"{tuple(inputs.targets.shape)}"
        )
    q = quality.detach().to(inputs.logits.dtype).unsqueeze(-1)
    q = torch.where(is_category, q, 1.0)
    check_range(q, 0, 1, "quality")
    return q


def sums_by_label(inputs: Inputs, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Per category, the sum over its positives and the sum over everything else.

    Nothing is computed by subtraction: the sum over many small negatives would be lost in the
    rounding error of the few large positives.

    Args:
        inputs: the result of `prepare`, with integer labels.
        positive: ``(..., 1)``, the value of each row at its label.
        negative: ``(..., K)``, the value of each logit as a negative.
    """
    k = negative.shape[-1]
    index, is_category = label_index(inputs.targets, k)
    at_labels = torch.where(is_category, positive, 0.0).flatten()
    rest = replace_at_label(negative, inputs, torch.zeros_like(positive))
    return (
        negative.new_zeros(k).index_add(0, index.flatten(), at_labels),
        sum_rows(rest, inputs),
    )


def sum_rows(values: Tensor, inputs: Inputs) -> Tensor:
    """``(..., K)`` summed to ``(K,)``, without ignored elements."""
    if inputs.kept is not None:
        values = torch.where(inputs.kept, values, 0.0)
    return values.reshape(-1, values.shape[-1]).sum(0)


def label_index(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Column of each row's label, ``(..., 1)``, and whether the label is a category.

    Background and ignored rows get an arbitrary valid column, so gather and scatter need no mask.
    """
    index = labels.clamp(0, num_classes - 1).unsqueeze(-1)
    is_category = ((labels >= 0) & (labels < num_classes)).unsqueeze(-1)
    return index, is_category


def at_label(value: Any, index: Tensor) -> Any:
    """The value at each row's label, ``(..., 1)``; a number is returned unchanged."""
    return value[index] if isinstance(value, Tensor) and value.ndim else value


def replace_at_label(everywhere: Tensor, inputs: Inputs, value: Tensor) -> Tensor:
    """``everywhere (..., K)`` with ``value (..., 1)`` in the column of each object's label."""
    index, is_category = label_index(inputs.targets, everywhere.shape[-1])
    value = torch.where(is_category, value, everywhere.gather(-1, index))
    return everywhere.scatter(-1, index, value)


def times(value: Tensor, factor: Number | None) -> Tensor:
    """``value`` times ``factor``, unless that is None."""
    return value if factor is None else value * factor


def _at_labels(
    inputs: Inputs, term: Term, parameters: Sequence[Number], own: Number | None
) -> Tensor:
    """The positive form of each row at its label, ``(..., 1)``."""
    index, _ = label_index(inputs.targets, inputs.logits.shape[-1])
    picked = [at_label(p, index) for p in parameters]
    return times(term(inputs.logits.gather(-1, index), *picked), at_label(own, index))
