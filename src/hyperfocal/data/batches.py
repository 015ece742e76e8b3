"""The order of training images: an endless, resumable stream of global batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.samplers import Sampler
from hyperfocal.types import AnnotationSet, ConfigError

_KEY = 2  # see samplers._KEY
_SOURCE_KEY = 5
_DETECTOR_KEY = 6


@dataclass(frozen=True)
class Sampled:
    """One image chosen by the sampler.

    Attributes:
        index: into ``AnnotationSet.images``.
        epoch: from 0.
        position: place in the epoch, from 0.
    """

    index: int
    epoch: int
    position: int

    def rng(self, seed: int) -> np.random.Generator:
        """The random generator of its augmentation, the same in every process."""
        return np.random.default_rng([seed, self.epoch, self.position, _KEY])

    def source_seed(self, seed: int) -> int:
        """Seed for random operations inside the image source, such as a Dataset's transforms."""
        return self._number(seed, _SOURCE_KEY)

    def detector_seed(self, seed: int) -> int:
        """Seed for the detector's random choices in this image, see `Batch.seeds`."""
        return self._number(seed, _DETECTOR_KEY)

    def _number(self, seed: int, key: int) -> int:
        sequence = np.random.SeedSequence([seed, self.epoch, self.position, key])
        return int(sequence.generate_state(1)[0])


def portrait(annotations: AnnotationSet) -> NDArray[np.bool_]:
    """``(M,)`` bool, whether each image is higher than wide."""
    return np.array([record.height > record.width for record in annotations.images], np.bool_)


class BatchStream:
    """Endless stream of global batches, a pure function of (sampler, groups, batch size).

    A batch may contain the last images of one epoch and the first of the next. With groups, an
    image waits until its group has a full batch. No image is dropped or repeated: after any number
    of steps, the sampled images are those in batches plus at most ``batch_size - 1`` waiting images
    per group.

    Args:
        sampler: the images of each epoch.
        batch_size: images per step, over all processes.
        groups: ``(M,)`` bool, the group of each image; all images of a batch are from the same
            group (see `portrait`). None: no groups.

    Examples:
        >>> from hyperfocal.data.samplers import PlainSampler
        >>> stream = BatchStream(PlainSampler(5, seed=0), batch_size=2)
        >>> batches = stream.from_step(0)
        >>> first, second, third = next(batches), next(batches), next(batches)
        >>> [sampled.epoch for sampled in third]
        [0, 1]
        >>> next(stream.from_step(1)) == second
        True
    """

    def __init__(
        self, sampler: Sampler, batch_size: int, groups: NDArray[np.bool_] | None = None
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size = {batch_size}, but it must be at least 1")
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups

    def from_step(self, step: int) -> Iterator[tuple[Sampled, ...]]:
        """Batches ``step``, ``step + 1``, ... without end.

        Earlier steps are sampled again and discarded: about a second per million images.
        """
        waiting: tuple[list[Sampled], list[Sampled]] = ([], [])
        epoch = made = 0
        while True:
            indices = self.sampler.epoch_indices(epoch)
            if len(indices) == 0:
                raise ConfigError("the sampler gives no images, so there is nothing to train on")
            groups = np.zeros(len(indices), np.bool_)
            if self.groups is not None:
                groups = self.groups[indices]
            pairs = zip(indices.tolist(), groups.tolist(), strict=True)
            for position, (index, group) in enumerate(pairs):
                queue = waiting[group]
                queue.append(Sampled(index, epoch, position))
                if len(queue) == self.batch_size:
                    if made >= step:
                        yield tuple(queue)
                    made += 1
                    queue.clear()
            epoch += 1


def rank_slice(batch_size: int, rank: int, world_size: int) -> slice:
    """The share of one process in a global batch; shares differ by at most one image.

    Raises:
        ConfigError: fewer images than processes.
    """
    if batch_size < world_size:
        raise ConfigError(
            f"batch_size = {batch_size} doesn't give each of {world_size} processes an image; "
            f"make it at least {world_size}"
        )
    return slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)
