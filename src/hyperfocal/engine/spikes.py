"""Losses far above their running range."""

from __future__ import annotations

import math
from collections.abc import Sequence

MEMORY = 0.02
"""Share of the newest loss in the running mean and variance."""
LEAST_STEPS = 50
"""Losses seen before any is called a spike."""
DEVIATIONS = 6.0
FACTOR = 2.0


class RunningRange:
    """Running mean and variance of a loss.

    A loss is a spike where it is above the mean by `DEVIATIONS` standard deviations and by
    `FACTOR`. It then counts only as much as would just not have been one.
    """

    def __init__(self, state: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        self.mean, self.variance, self.seen = state

    @property
    def limit(self) -> float:
        """What a loss has to exceed to be a spike."""
        if self.seen < LEAST_STEPS:
            return math.inf
        return max(self.mean + DEVIATIONS * math.sqrt(self.variance), FACTOR * self.mean)

    def is_spike(self, loss: float) -> bool:
        """Whether the next loss is one; counts it."""
        limit = self.limit
        value = min(loss, limit)
        share = max(MEMORY, 1 / (self.seen + 1))  # a plain mean at first
        away = value - self.mean
        self.mean += share * away
        self.variance = (1 - share) * (self.variance + share * away * away)
        self.seen += 1
        return loss > limit

    def state(self) -> list[float]:
        """For a checkpoint."""
        return [self.mean, self.variance, self.seen]
