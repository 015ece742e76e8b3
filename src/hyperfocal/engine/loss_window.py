"""Mean losses between two lines of the log, and detection of loss spikes."""

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
"""Weight of the newest loss in the running mean and variance."""
LEAST_STEPS = 50
"""Number of losses before spikes are detected."""
DEVIATIONS = 6.0
FACTOR = 2.0


class RunningRange:
    """Running mean and variance of a loss.

    A loss is a spike if it exceeds the mean by `DEVIATIONS` standard deviations and by `FACTOR`.
    Mean and variance are then updated with the largest value that isn't a spike.
    """

    def __init__(self, state: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        self.mean, self.variance, self.seen = state

    @property
    def limit(self) -> float:
        """Losses above this are spikes."""
        if self.seen < LEAST_STEPS:
            return math.inf
        return max(self.mean + DEVIATIONS * math.sqrt(self.variance), FACTOR * self.mean)

    def is_spike(self, loss: float) -> bool:
        """Whether the next loss is a spike; updates mean and variance."""
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
    """A loss far above its running mean.

    Attributes:
        step: optimizer steps done, this one included.
        loss: of the step, over all processes.
        usual: running mean before it.
        image_ids: of the global batch.
    """

    step: int
    loss: float
    usual: float
    image_ids: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """As JSON-serializable values."""
        return asdict(self)


class LossWindow:
    """Loss terms since the last line of the log; saved in checkpoints.

    Nothing is read from the device before `close`.

    Attributes:
        sums: by term, over the window's optimizer steps.
        note: the last mean loss, as text.
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
        self._images = 0  # since `_began`, which is reset on resuming
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
        """Average the values over all processes, so that a checkpoint is valid for all of them."""
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
            if self.range.is_spike(loss):  # the same in all processes, which share the losses
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
        """Restore the window that was open when the checkpoint was saved."""
        self._clear()
        self.sums = {name: value.to(fabric.device) for name, value in state["sums"].items()}
        self._losses = [value.to(fabric.device) for value in state["losses"]]
        self._after = list(state["after"])
        # Only the main process's image ids are saved.
        known = fabric.is_global_zero
        self._image_ids = [tuple(ids) if known else () for ids in state["image_ids"]]
        self.range = RunningRange(state["range"])
