"""What changes while a training goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import optim

from hyperfocal.engine.ema import WeightAverage
from hyperfocal.engine.evaluate import Evaluation
from hyperfocal.models import Detector


@dataclass
class TrainState:
    """What changes while training goes on; all of it is in a checkpoint."""

    model: Detector
    optimizer: optim.Optimizer
    average: WeightAverage | None
    step: int = 0
    evaluated: int = 0
    best: float = -math.inf
    evaluation: Evaluation | None = field(default=None, repr=False)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, so that it loads without executing anything."""
        average = self.average
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average
            and {"model": average.model.state_dict(), "updates": average.updates},
            "step": self.step,
            "evaluated": self.evaluated,
            "best": self.best,
            "rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None and state["average"] is not None:
            self.average.model.load_state_dict(state["average"]["model"])
            self.average.updates = state["average"]["updates"]
        self.step, self.evaluated = state["step"], state["evaluated"]
        self.best = state["best"]
        torch.set_rng_state(state["rng"])
