"""Softmax focal loss.

Formula, with q = softmax(x), label c and a weight z_c:

    L = -z_c (1 - q_c)^γ log q_c

Gradient with respect to the logit:

    dL/dx_k = z_c [γ (1 - q_c)^(γ-1) q_c log q_c - (1 - q_c)^γ] (1[k = c] - q_k)

It is computed as the focal term of x_c - log Σ_{k≠c} exp(x_k), whose sigmoid is q_c, so that
1 - q_c isn't subject to cancellation.

Source: the released code of the focal-loss paper, where the background is a separate category with
z = 1 - α and every other category has z = α. To start from a prior π, set the background's bias to
log(K (1 - π)/π) and the others to 0 (`softmax_prior_bias`).

Use it where exactly one category is correct: tokens, images, pixels, rows of a table. With γ = 0 it
is (weighted) cross entropy. Dense detectors perform better with sigmoids, whose logits don't
compete at background locations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfocal.losses._core.checks import Number, check_scalar, per_category
from hyperfocal.losses._core.inputs import Reduction, prepare_softmax, reduce_rows, widest
from hyperfocal.losses._core.one_vs_all import at_label, times
from hyperfocal.losses._core.terms import focal_term
from hyperfocal.losses.roles import ClassificationLossConfig
from hyperfocal.losses.softmax_logits import SoftmaxLogits
from hyperfocal.types import CategoryCounts, ConfigError


def softmax_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: Number | None = None,
    gamma: Number = 2.0,
    background: int | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
) -> Tensor:
    """``-z_c (1 - q_c)^γ log q_c``.

    Args:
        logits: ``(..., C)`` (or ``(N, C, *spatial)`` with ``channel_dim=1``), any float dtype;
            float16 and bfloat16 are computed and returned in float32.
        targets: integer labels ``0..C-1`` of the logits' shape without the categories; -1 ignored.
        alpha: z: a tensor with one weight per category, at least 0; or with ``background`` a
            number: alpha for every category and 1 - alpha for the background. None: 1.
        gamma: focusing parameter, at least 0; a number or one value per category.
        background: which of the C categories is the background (the last, C - 1, in this package's
            label convention); only for a number ``alpha``.
        weight: extra factor, one per row.
        reduction: "none", "sum" or "mean" (over rows that aren't ignored).
        normalizer: divides the result of "none" or "sum".
        channel_dim: dimension of the categories.

    Returns:
        The shape of ``targets`` for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit, or C < 2.
        ConfigError: a setting out of range, or a number alpha without ``background``.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import softmax_focal_loss
        >>> logits = torch.zeros(2, 2)
        >>> softmax_focal_loss(logits, torch.tensor([0, 1]))
        tensor([0.1733, 0.1733])
    """
    inputs = prepare_softmax(logits, targets, weight, channel_dim)
    gamma = per_category(gamma, "gamma", inputs.logits)
    index = inputs.targets.clamp(min=0).unsqueeze(-1)
    x_t = true_class_logit(inputs.logits, index)
    z = _class_weights(alpha, background, inputs.logits)
    loss = times(focal_term(x_t, at_label(gamma, index)), at_label(z, index))
    return reduce_rows(loss.squeeze(-1).to(inputs.logits.dtype), inputs, reduction, normalizer)


def true_class_logit(logits: Tensor, index: Tensor) -> Tensor:
    """x_c - log Σ_{k≠c} exp(x_k), ``(..., 1)``: the logit of the softmax probability of c = index.

    Args:
        logits: ``(..., C)``.
        index: ``(..., 1)``, the label c of each row.

    Returns:
        float64 where the device supports it, because 1 - q_c is about e^-x_t.
    """
    logits = widest(logits)  # the probability is exponential in the difference of logits
    others = logits.scatter(-1, index, -math.inf)
    return logits.gather(-1, index) - others.logsumexp(-1, keepdim=True)


def _class_weights(alpha: Number | None, background: int | None, logits: Tensor) -> Number | None:
    c = logits.shape[-1]
    if background is not None and not 0 <= background < c:
        raise ConfigError(f"background = {background}, but it must be in [0, {c - 1}]")
    if alpha is None:
        return None
    if isinstance(alpha, Tensor) and alpha.ndim:
        if background is not None:
            raise ConfigError("background needs a number alpha; a tensor has an entry for it")
        return per_category(alpha, "alpha", logits)
    if background is None:
        raise ConfigError(
            f"alpha = {alpha!r} is a number, so background must name the background category; "
            "or give alpha as a tensor with one weight per category"
        )
    check_scalar(float(alpha), "alpha", 0, 1)
    weights = torch.full((c,), float(alpha), dtype=logits.dtype, device=logits.device)
    weights[background] = 1 - alpha
    return weights


class SoftmaxFocalLoss(nn.Module):
    """`softmax_focal_loss`, summed and divided by a normalizer.

    Args:
        alpha: one weight per category, or a number together with ``background``; None: 1.
        gamma: focusing parameter.
        background: which category is the background.
    """

    alpha: float | Tensor | None

    def __init__(
        self,
        alpha: float | Tensor | None = None,
        gamma: float = 2.0,
        background: int | None = None,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.background = background
        if isinstance(alpha, Tensor) and alpha.ndim:
            self.register_buffer("alpha", alpha)
        else:  # stays a Python number: reading a tensor would synchronise with the device
            self.alpha = None if alpha is None else float(alpha)

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over rows that aren't ignored, over ``normalizer``."""
        return softmax_focal_loss(
            logits,
            targets,
            alpha=self.alpha,
            gamma=self.gamma,
            background=self.background,
            reduction="sum",
            normalizer=normalizer,
        )


class SoftmaxFocalClassifierLoss(SoftmaxLogits):
    """`softmax_focal_loss` for a detector's classifier, summed and divided by a normalizer.

    Args:
        num_classes: K; logits are ``(..., K + 1)``, the background last.
        alpha, gamma: see `Config`.

    Examples:
        >>> import torch
        >>> from hyperfocal.losses import SoftmaxFocalClassifierLoss
        >>> loss = SoftmaxFocalClassifierLoss(num_classes=1)
        >>> loss(torch.zeros(2, 2), torch.tensor([0, 1]))  # 1/4 and 3/4 of 0.5² log 2
        tensor(0.1733)
    """

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `SoftmaxFocalClassifierLoss`."""

        kind: ClassVar[str] = "softmax_focal"

        alpha: float | None = 0.25
        """Weight of every category, the background gets 1 - alpha; none: 1 for both."""
        gamma: float = 2.0
        """Focusing parameter; 0 is cross entropy."""

        def __post_init__(self) -> None:
            self._require(self.alpha is None or 0 <= self.alpha <= 1, "alpha", "in [0, 1] or none")
            self._require(self.gamma >= 0, "gamma", "at least 0")

        @property
        def has_own_logits(self) -> bool:
            """True."""
            return True

        def build(
            self, num_classes: int, counts: CategoryCounts | None = None
        ) -> SoftmaxFocalClassifierLoss:
            """The loss for ``num_classes`` categories; ``counts`` isn't used."""
            return SoftmaxFocalClassifierLoss(num_classes, **self.arguments())

    def __init__(self, num_classes: int, alpha: float | None = 0.25, gamma: float = 2.0) -> None:
        super().__init__(num_classes)
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over rows ``(..., K + 1)`` that aren't ignored, over ``normalizer``."""
        self.check_width(logits)
        return softmax_focal_loss(
            logits,
            targets,
            alpha=self.alpha,
            gamma=self.gamma,
            background=None if self.alpha is None else self.num_classes,
            reduction="sum",
            normalizer=normalizer,
        )
