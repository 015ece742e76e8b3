"""Losses between two lines of the log: their means, and steps whose loss spikes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor

from hyperfocal.types import LossTerms

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


@dataclass(frozen=True)
class Spike:
    """A loss far above its running range.

    Attributes:
        step: after which number of optimizer steps it was logged.
        loss: of the step, over all processes.
        usual: running mean before it.
        image_ids: of the global batch.
    """

    step: int
    loss: float
    usual: float
    image_ids: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


class LossWindow:
    """Loss terms since the last line of the log; part of a checkpoint.

    Nothing is read from the device before the window closes.

    Attributes:
        sums: by term, over the window's optimizer steps.
        note: the last mean loss, in words.
    """

    def __init__(self) -> None:
        self.note = ""
        self.range = RunningRange()
        self._clear()

    def _clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self._losses: list[Tensor] = []
        self._after: list[int] = []
        self._image_ids: list[tuple[int, ...]] = []
        self._images = 0  # since `_began`, which a resumed run starts anew
        self._began = time.monotonic()

    def __len__(self) -> int:
        return len(self._losses)

    def add(
        self, parts: list[LossTerms], step: int, images: int, image_ids: tuple[int, ...]
    ) -> None:
        """Add one optimizer step.

        Args:
            parts: its micro-batches' terms.
            step: optimizer steps done, this one included.
            images: of the global batch.
            image_ids: of this process's share.
        """
        losses = []
        for terms in parts:
            named = terms.named()
            losses.append(named["loss"])
            for name, value in named.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
        self._losses.append(torch.stack(losses).sum())
        self._after.append(step)
        self._image_ids.append(image_ids)
        self._images += images

    def share(self, fabric: Fabric) -> None:
        """Replace each process's values by their mean over all: what is saved speaks for all."""
        if fabric.world_size == 1 or not self._losses:
            return
        flat = torch.stack([*self.sums.values(), *self._losses]).float()
        mean = fabric.all_reduce(flat, reduce_op="mean")
        values = list(mean.unbind())  # type: ignore[union-attr]
        self.sums = dict(zip(self.sums, values, strict=False))
        self._losses = values[len(self.sums) :]

    def close(self, fabric: Fabric) -> tuple[dict[str, float], list[Spike]]:
        """Means per optimizer step over all processes, and spikes; starts the next window."""
        self.share(fabric)
        values = {name: float(value / len(self)) for name, value in self.sums.items()}
        self.note = f"loss {values['loss']:.3f}"
        spikes = []
        for n, loss in enumerate(torch.stack(self._losses).tolist()):
            usual = self.range.mean
            if self.range.is_spike(loss):  # in all processes alike: they share the losses
                ids = self._all_ids(n, fabric)
                spikes.append(Spike(self._after[n], loss, usual, ids))
        seconds = max(time.monotonic() - self._began, 1e-9)
        values["images_per_second"] = self._images / seconds
        self._clear()
        return values, spikes

    def _all_ids(self, n: int, fabric: Fabric) -> tuple[int, ...]:
        if fabric.world_size == 1:
            return self._image_ids[n]
        shares: list[Any] = [None] * fabric.world_size
        dist.all_gather_object(shares, self._image_ids[n])
        return tuple(image_id for share in shares for image_id in share)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; call `share` first."""
        return {
            "sums": self.sums,
            "losses": self._losses,
            "after": self._after,
            "image_ids": [list(ids) for ids in self._image_ids],
            "range": self.range.state(),
        }

    def load_state_dict(self, state: dict[str, Any], fabric: Fabric) -> None:
        """Go on with a window that was open when the checkpoint was written."""
        self._clear()
        self.sums = {name: value.to(fabric.device) for name, value in state["sums"].items()}
        self._losses = [value.to(fabric.device) for value in state["losses"]]
        self._after = list(state["after"])
        # The main process's; the others' images of steps before the checkpoint are not known.
        known = fabric.is_global_zero
        self._image_ids = [tuple(ids) if known else () for ids in state["image_ids"]]
        self.range = RunningRange(state["range"])
