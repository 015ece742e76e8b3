"""Base of losses over the softmax of K categories and the background."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperfocal.losses.roles import LossWithOwnLogits
from hyperfocal.types import ConfigError, DataError


def softmax_prior_bias(num_classes: int, prior: float = 0.01) -> float:
    """Bias of the background logit, others 0, for which any category has probability ``prior``.

    Raises:
        ConfigError: a prior outside (0, 1).
    """
    if not 0 < prior < 1:
        raise ConfigError(f"prior = {prior!r}, but it must be in (0, 1)")
    return math.log(num_classes * (1 - prior) / prior)


class SoftmaxLogits(LossWithOwnLogits):
    """Base of losses over K + 1 softmax logits, the background last.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    @property
    def num_logits(self) -> int:
        """K + 1."""
        return self.num_classes + 1

    @property
    def category_logits(self) -> tuple[int, ...]:
        """``0..K-1``."""
        return tuple(range(self.num_classes))

    def check_width(self, logits: Tensor) -> None:
        """Check the number of logits.

        Raises:
            DataError: there aren't K + 1.
        """
        if logits.shape[-1:] != (self.num_logits,):
            raise DataError(
                f"logits have shape {tuple(logits.shape)}, but the last dimension must be "
                f"{self.num_logits}: {self.num_classes} categories and the background"
            )

    def scores(self, logits: Tensor) -> Tensor:
        """Softmax probabilities ``(..., K)`` of ``(..., K + 1)``."""
        return torch.softmax(logits, -1)[..., :-1]

    def initial_bias(self, prior: float) -> Tensor:
        """See `LossWithOwnLogits.initial_bias`."""
        bias = torch.zeros(self.num_logits)
        bias[-1] = softmax_prior_bias(self.num_classes, prior)
        return bias
