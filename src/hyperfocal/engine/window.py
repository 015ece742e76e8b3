"""Means of the loss terms between two lines of the log."""

from __future__ import annotations

import time

from lightning_fabric import Fabric
from torch import Tensor

from hyperfocal.types import LossTerms


class LossWindow:
    """Sums of the loss terms since the last line of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.images = 0
        self.steps = 0
        self.began = time.monotonic()
        self.note = ""

    def add(self, terms: LossTerms, images: int) -> None:
        """Add one forward pass."""
        for name, value in terms.named().items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.images += images

    def close(self, fabric: Fabric) -> dict[str, float]:
        """Means per optimizer step over all processes; starts the next window."""
        values = {}
        for name, value in self.sums.items():
            mean = fabric.all_reduce(value / self.steps, reduce_op="mean")
            values[name] = float(mean)  # type: ignore[arg-type]
        seconds = max(time.monotonic() - self.began, 1e-9)
        values["images_per_second"] = self.images * fabric.world_size / seconds
        self.__init__()  # type: ignore[misc]
        self.note = f"loss {values['loss']:.3f}"
        return values
