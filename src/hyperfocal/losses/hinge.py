"""Hinge loss on the probability of the true class, a negative result of the focal-loss paper.

Formula:

    L = α_t max(0, m - p_t)

Gradient with respect to the logit: -y α_t p_t (1 - p_t) below the margin, 0 above.

Source: the focal-loss paper tried "a hinge loss on p_t" (section 5.1), found it unstable and gives
neither formula nor numbers; this form is ours, with margins 1 and 0.5 to try.

Don't use it to train a detector. The gradient vanishes for the hardest examples (p_t → 0) as well
as for easy ones, so a network that starts with all-background predictions doesn't learn. It is
included so that the claim can be checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hyperfocal.losses._core.checks import Number
from hyperfocal.losses._core.inputs import Reduction, prepare, reduce
from hyperfocal.losses._core.one_vs_all import balance, one_vs_all
from hyperfocal.losses.alpha import MUST, Alpha, as_number, is_alpha, keep_alpha
from hyperfocal.losses.roles import ClassificationLossConfig
from hyperfocal.types import CategoryCounts, ConfigError


def hinge_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: Number | None = None,
    margin: float = 0.5,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Number | None = None,
    channel_dim: int = -1,
) -> Tensor:
    """``α_t max(0, margin - p_t)``.

    Args:
        logits: ``(..., K)`` (or ``(N, K, *spatial)`` with ``channel_dim=1``).
        targets: as for `sigmoid_focal_loss`.
        alpha: weight of positives; negatives get ``1 - alpha``. None: 1 for both.
        margin: in (0, 1]; the loss is 0 where p_t >= margin.
        weight: extra factor, one per row or one per logit.
        reduction: "none", "sum" or "mean" (over what isn't ignored).
        normalizer: divides the result of "none" or "sum".
        channel_dim: dimension of the categories.

    Returns:
        The logits' shape for "none", else a scalar.

    Raises:
        DataError: shapes, dtypes or (on the CPU) label values that don't fit.
        ConfigError: a setting out of range.
    """
    if not 0 < margin <= 1:
        raise ConfigError(f"margin = {margin!r}, but it must be in (0, 1]")
    inputs = prepare(logits, targets, weight, channel_dim)
    own, rest = balance(alpha, inputs.logits)
    loss = one_vs_all(inputs, _term, margin, own=own, rest=rest)
    return reduce(loss, inputs, reduction, normalizer)


def _term(x_t: Tensor, margin: float) -> Tensor:
    # Whichever of p_t and 1 - p_t is smaller has full precision, also in autograd's p (1 - p).
    below = torch.where(x_t > 0, torch.sigmoid(-x_t) - (1 - margin), margin - torch.sigmoid(x_t))
    return below.clamp(min=0)


class HingeLoss(nn.Module):
    """`hinge_loss`, summed and divided by a normalizer.

    Args:
        alpha, margin: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        """Settings of `HingeLoss`."""

        by_category: ClassVar[tuple[str, ...]] = ("alpha",)
        kind: ClassVar[str] = "hinge"

        alpha: Alpha = None
        """Weight of positives, negatives get 1 - alpha; none: 1 for both. By category:
        cat=0.5,dog=0.2 or a file of such pairs."""
        margin: float = 0.5
        """The loss is 0 where the probability of the true class is at least this."""

        def __post_init__(self) -> None:
            self._require(is_alpha(self.alpha), "alpha", f"{MUST}, or none")
            self._require(0 < self.margin <= 1, "margin", "in (0, 1]")

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> HingeLoss:
            """The loss for ``num_classes`` categories."""
            return HingeLoss(**self.arguments(alpha=as_number(self.alpha, num_classes)))

    alpha: Number | None

    def __init__(self, alpha: Number | None = None, margin: float = 0.5) -> None:
        super().__init__()
        keep_alpha(self, alpha)
        self.margin = margin

    def forward(self, logits: Tensor, targets: Tensor, normalizer: Number = 1.0) -> Tensor:
        """Scalar: the sum over all logits ``(..., K)`` that aren't ignored, over ``normalizer``."""
        return hinge_loss(
            logits,
            targets,
            alpha=self.alpha,
            margin=self.margin,
            reduction="sum",
            normalizer=normalizer,
        )
