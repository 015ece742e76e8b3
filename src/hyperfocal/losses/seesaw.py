"""Seesaw loss: softmax cross entropy with reduced negative gradients on rarer categories.

Formula, for a row of label i, with N the samples seen of each category and q = softmax(x):

    M_ij = min(1, N_j / N_i)^p                     mitigation: j is rarer than i
    C_ij = max(1, q_j / q_i)^c                     compensation: j is predicted over i
    L = -log( exp(x_i) / Σ_j S_ij exp(x_j) ),      S_ij = M_ij C_ij, S_ii = 1

S is treated as a constant: the gradient is that of cross entropy with logits x_j + log S_ij.

With objectness there are two more logits, object and background: the formula is summed over objects
only, a softmax cross entropy over the two is added for every row, and a category's score is its
softmax probability times that of object (`seesaw_scores`).

Source: Seesaw Loss (Wang et al., CVPR 2021): p = 0.8, c = 2, q_i at least 0.01 in the ratio. The
released code counts per process and includes the current batch in N. `SeesawLoss` counts over all
processes, and N is that of the steps before, so that the gradient of a step is the same for any
number of processes and micro-batches.

Use it for the classifier of a two-stage detector, or any softmax classifier, on long-tailed data.
There is no variant for a dense detector's sigmoids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.losses._core.checks import Number, check_scalar, integer_labels
from hyperfocal.losses._core.inputs import Reduction, prepare_softmax, reduce, reduce_rows, widest
from hyperfocal.losses._core.memory import take_pending
from hyperfocal.losses._core.terms import cross_entropy_term
from hyperfocal.losses.roles import (
    ClassificationLossConfig,
    LossWithMemory,
    LossWithOwnLogits,
)
from hyperfocal.losses.softmax_focal import true_class_logit
from hyperfocal.losses.softmax_logits import softmax_prior_bias
from hyperfocal.types import CategoryCounts, ConfigError, DataError


def seesaw_loss(
    logits: Tensor,
    targets: Tensor,
    counts: Tensor,
    *,
    p: float = 0.8,
    q: float = 2.0,
    eps: float = 0.01,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
) -> Tensor:
    """Seesaw loss for given sample counts; `SeesawLoss` accumulates them.

    Args:
        logits: ``(..., C)`` (or ``(N, C, *spatial)`` with ``channel_dim=1``).
        targets: integer labels ``0..C-1`` of the logits' shape without the categories; -1 ignored.
        counts: ``(C,)`` samples seen of each category; 0 counts as 1.
        p: exponent of the mitigation, at least 0.
        q: exponent of the compensation, at least 0.
        eps: lower bound of the true category's score in the compensation's ratio.
        weight: extra factor, one per row.
        reduction: "none", "sum" or "mean" (over rows that aren't ignored).
        normalizer: divides the result of "none" or "sum".
        channel_dim: dimension of the categories.

    Returns:
        The shape of ``targets`` for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit, or C < 2.
        ConfigError: a setting out of range.
    """
    check_scalar(p, "p")
    check_scalar(q, "q")
    check_scalar(eps, "eps", low=1e-30, high=1)
    inputs = prepare_softmax(logits, targets, weight, channel_dim)
    x = inputs.logits
    if counts.shape != x.shape[-1:]:
        raise ConfigError(f"counts has shape {tuple(counts.shape)}, but it must be {x.shape[-1:]}")
    index = inputs.targets.clamp(min=0).unsqueeze(-1)
    wide = widest(x)
    log_n = counts.clamp(min=1).to(wide.dtype).log()
    mitigation = (log_n - log_n[index]).clamp(max=0)
    log_q = torch.log_softmax(wide.detach(), -1)
    compensation = (log_q - log_q.gather(-1, index).clamp(min=math.log(eps))).clamp(min=0)
    log_s = (p * mitigation + q * compensation).scatter(-1, index, 0.0)
    loss = cross_entropy_term(true_class_logit(wide + log_s, index)).squeeze(-1).to(x.dtype)
    return reduce_rows(loss, inputs, reduction, normalizer)


def seesaw_scores(logits: Tensor) -> Tensor:
    """Scores ``(..., K)`` from logits ``(..., K + 2)`` with object and background last."""
    objectness = torch.softmax(logits[..., -2:], -1)[..., :1]
    return torch.softmax(logits[..., :-2], -1) * objectness


class SeesawLoss(LossWithMemory, LossWithOwnLogits):
    """Seesaw loss that accumulates sample counts, summed and divided by a normalizer.

    Labels are ``0..K-1``, ``K`` for background and ``-1`` for ignored. With objectness the logits
    are ``(..., K + 2)``, object and background last; without, ``(..., K + 1)``, and the background
    is a category like the others.

    Attributes (buffers):
        counts: int64 samples of each category over all steps and processes; used by the next
            forward pass.
        pending: this process's samples since the last step.

    Args:
        num_classes: K.
        p, q, eps, objectness: see `Config`.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import SeesawLoss
        >>> loss = SeesawLoss(num_classes=3)
        >>> logits = torch.zeros(2, loss.num_logits)  # 3 categories, object, background
        >>> loss(logits, torch.tensor([0, 3]))  # an object: log 3 + log 2; background: log 2
        tensor(2.4849)
        >>> loss.step()  # after optimizer.step(): the next call uses the samples of this one
        >>> loss.counts
        tensor([1, 0, 0])
        >>> loss.scores(logits)[0]
        tensor([0.1667, 0.1667, 0.1667])
    """

    counts: Tensor
    pending: Tensor

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `SeesawLoss`."""

        kind: ClassVar[str] = "seesaw"

        p: float = 0.8
        """Exponent of the mitigation, by which rarer categories are spared as negatives."""
        q: float = 2.0
        """Exponent of the compensation, by which wrongly predicted categories are penalised."""
        eps: float = 0.01
        """Lower bound of the true category's score in the compensation's ratio."""
        objectness: bool = True
        """Two further logits for object and background; without them the background is a category
        like the others."""

        def __post_init__(self) -> None:
            self._require(self.p >= 0, "p", "at least 0")
            self._require(self.q >= 0, "q", "at least 0")
            self._require(0 < self.eps <= 1, "eps", "in (0, 1]")

        @property
        def has_own_logits(self) -> bool:
            """True."""
            return True

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> SeesawLoss:
            """The loss for ``num_classes`` categories; it counts samples itself."""
            return SeesawLoss(num_classes, **self.arguments())

    def __init__(
        self,
        num_classes: int,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 0.01,
        objectness: bool = True,
    ) -> None:
        super().__init__()
        self.p = p
        self.q = q
        self.eps = eps
        self.num_classes = num_classes
        self.objectness = objectness
        columns = num_classes if objectness else num_classes + 1
        self.register_buffer("counts", torch.zeros(columns, dtype=torch.int64))
        self.register_buffer("pending", torch.zeros(columns, dtype=torch.int64))

    @property
    def num_logits(self) -> int:
        """K + 2 with objectness, else K + 1."""
        return self.num_classes + 1 + self.objectness

    @property
    def category_logits(self) -> tuple[int, ...]:
        """``0..K-1``."""
        return tuple(range(self.num_classes))

    def scores(self, logits: Tensor) -> Tensor:
        """`seesaw_scores`, or softmax probabilities without objectness."""
        return seesaw_scores(logits) if self.objectness else torch.softmax(logits, -1)[..., :-1]

    def initial_bias(self, prior: float) -> Tensor:
        """See `LossWithOwnLogits.initial_bias`."""
        bias = torch.zeros(self.num_logits)
        # With objectness, the softmax over object and background has one object logit.
        bias[-1] = softmax_prior_bias(1 if self.objectness else self.num_classes, prior)
        return bias

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over rows that aren't ignored, over ``normalizer``."""
        k, columns, expected = self.num_classes, len(self.counts), self.num_logits
        if logits.shape[-1] != expected:
            raise DataError(f"there are {logits.shape[-1]} logits, but there must be {expected}")
        targets = integer_labels(targets, k)
        counted = (targets >= 0) & (targets < columns)
        labels = torch.where(counted, targets, -1)  # with objectness, objects only
        loss = seesaw_loss(
            logits[..., :columns],
            labels,
            self.counts,
            p=self.p,
            q=self.q,
            eps=self.eps,
            reduction="sum",
            normalizer=normalizer,
        )
        if self.training:
            index, number = labels.clamp(min=0).flatten(), counted.long().flatten()
            self.pending.index_add_(0, index, number)
        if not self.objectness:
            return loss
        is_background = torch.where(targets < 0, -1, (targets == k).long())
        inputs = prepare_softmax(logits[..., k:], is_background)
        index = inputs.targets.clamp(min=0).unsqueeze(-1)
        objectness = cross_entropy_term(true_class_logit(inputs.logits, index)).to(loss.dtype)
        return loss + reduce(objectness, inputs, "sum", normalizer)

    @torch.no_grad()
    def step(self) -> None:
        """Add the pending counts of all processes to the state; call once per optimizer step."""
        (total,) = take_pending(self.pending)
        self.counts.add_(total)
