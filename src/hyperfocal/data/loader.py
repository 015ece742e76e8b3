"""Loaders of batches for training and for evaluation, with worker processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from hyperfocal.data.batches import BatchStream, Sampled, portrait, rank_slice
from hyperfocal.data.broken import BrokenFiles, grey_sample, with_replacement
from hyperfocal.data.images import limit_pixels
from hyperfocal.data.samples import collate, load_sample
from hyperfocal.data.settings import DataConfig
from hyperfocal.data.transforms import TransformConfig, apply, make_plan
from hyperfocal.data.workers import interrupts_held, start_worker
from hyperfocal.types import AnnotationSet, Batch, ConfigError, DataError, Sample, Target


def train_batches(
    settings: DataConfig,
    annotations: AnnotationSet,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Batches:
    """Endless iterator over one process's training batches, one per optimizer step.

    A batch depends only on the data, the settings, ``seed`` and its step, not on the number of
    workers. The global batch doesn't depend on the number of processes. All processes pad the
    images of a step to the same size.

    Args:
        settings: sampler, ``train_transform``, grouping, workers.
        annotations: the training split.
        batch_size: images per step, over all processes.
        seed: seed for the order of images and their augmentation.
        start_step: the first step, when a run is resumed.
        rank: of this process.
        world_size: number of processes.
        pin_memory: put images in page-locked memory, for a GPU.

    Raises:
        ConfigError: impossible sizes.
        DataError: while iterating, when more than ``max_broken`` of the images can't be read any
            more; names them. Up to that share, another image takes the place of each, with a
            `HyperfocalWarning`.
    """
    if seed < 0:
        raise ConfigError(f"seed = {seed}, but it must be at least 0")
    groups = portrait(annotations) if settings.group_by_aspect else None
    stream = BatchStream(settings.sampler.build(annotations, seed), batch_size, groups)
    part = rank_slice(batch_size, rank, world_size)
    steps = _Steps(settings, annotations, settings.train_transform, part, seed, True)
    broken = BrokenFiles(
        len(annotations.images), settings.max_broken, "another image takes its place"
    )
    return Batches(steps, _FromStep(stream, start_step), settings.workers, pin_memory, broken)


def eval_batches(
    settings: DataConfig,
    annotations: AnnotationSet,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> SizedBatches:
    """One process's evaluation batches: every image once over all processes.

    Images of similar size follow each other, so there is little padding.

    Args:
        settings: ``val_transform``, workers.
        annotations: the split.
        batch_size: images at a time in each process.
        rank: of this process.
        world_size: number of processes.
        pin_memory: put images in page-locked memory, for a GPU.

    Raises:
        ConfigError: ``batch_size`` below 1.
        DataError: while iterating, when more than ``max_broken`` of the images can't be read any
            more; names them. Up to that share, a grey image takes the place of each, with a
            `HyperfocalWarning`: its boxes count as missed.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size = {batch_size}, but it must be at least 1")
    steps = _Steps(settings, annotations, settings.val_transform, slice(None), 0, False)
    every = [Sampled(n, 0, n) for n in range(len(annotations.images))]
    # By shape, then size, then index, so that the order is the same everywhere.
    keys = [(hw[0] / hw[1], hw) for hw in map(steps.hw, every)]
    every.sort(key=lambda sampled: (*keys[sampled.index], sampled.index))
    starts = range(rank * batch_size, len(every), world_size * batch_size)
    order = [tuple(every[n : n + batch_size]) for n in starts]
    own = sum(map(len, order))
    broken = BrokenFiles(own, settings.max_broken, "its boxes count as missed")
    return SizedBatches(steps, order, settings.workers, pin_memory, broken)


def epoch_length(settings: DataConfig, annotations: AnnotationSet) -> float:
    """Number of images in an epoch of the sampler; the expected number if it varies.

    For a sampler that repeats images, it is greater than the size of the split.
    """
    return settings.sampler.build(annotations, seed=0).epoch_length


class Batches:
    """Iterable of batches; made by `train_batches`."""

    def __init__(
        self,
        steps: _Steps,
        order: Iterable[tuple[Sampled, ...]],
        workers: int,
        pin_memory: bool,
        broken: BrokenFiles,
    ) -> None:
        self._broken = broken
        self._loader: DataLoader[_Packed | _Failure] = DataLoader(
            steps,
            batch_size=None,  # a step is one item
            sampler=order,
            num_workers=workers,
            collate_fn=_same,
            pin_memory=pin_memory,
            worker_init_fn=partial(start_worker, steps.max_pixels),
            # Its own, so that starting workers takes nothing from torch's global generator.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:
        with interrupts_held():
            items = iter(self._loader)
        for item in items:
            if isinstance(item, _Failure):
                raise DataError(item.message)
            self._broken.note(item.broken)
            yield item.unpack()


class SizedBatches(Batches):
    """`Batches` that end; made by `eval_batches`."""

    def __len__(self) -> int:
        return len(self._loader)


@dataclass(frozen=True)
class _FromStep:
    """`BatchStream.from_step` as an iterable."""

    stream: BatchStream
    step: int

    def __iter__(self) -> Iterator[tuple[Sampled, ...]]:
        return self.stream.from_step(self.step)


@dataclass(frozen=True)
class _Failure:
    """A `DataError` of a worker as a value, because raising it there would wrap it in a
    traceback."""

    message: str


@dataclass
class _Packed:
    """A batch from a worker.

    Each tensor sent between processes takes a file descriptor, so the many small ones are numpy
    arrays.
    """

    batch: Batch
    boxes: list[NDArray[np.float32]]
    labels: list[NDArray[np.int64]]
    broken: list[str]

    @staticmethod
    def pack(batch: Batch, broken: list[str]) -> _Packed:
        boxes = [target.boxes.numpy() for target in batch.targets]
        labels = [target.labels.numpy() for target in batch.targets]
        return _Packed(dataclasses.replace(batch, targets=()), boxes, labels, broken)

    def pin_memory(self) -> _Packed:
        return dataclasses.replace(self, batch=self.batch.pin_memory())

    def unpack(self) -> Batch:
        pairs = zip(self.boxes, self.labels, strict=True)
        targets = (Target(torch.from_numpy(b), torch.from_numpy(n)) for b, n in pairs)
        return dataclasses.replace(self.batch, targets=tuple(targets))


class _Steps(Dataset["_Packed | _Failure"]):
    """Dataset that loads a process's share of a global batch."""

    def __init__(
        self,
        settings: DataConfig,
        annotations: AnnotationSet,
        transform: TransformConfig,
        part: slice,
        seed: int,
        replaces: bool,
    ) -> None:
        self.records = annotations.images
        self.transform = transform
        self.divisor = settings.divisor
        self.max_pixels = settings.max_pixels
        limit_pixels(self.max_pixels)
        self.part = part
        self.seed = seed
        self.replaces = replaces

    def hw(self, sampled: Sampled) -> tuple[int, int]:
        """Size after the transform, known without decoding."""
        record = self.records[sampled.index]
        return make_plan((record.height, record.width), self.transform, sampled.rng(self.seed)).hw

    def __getitem__(self, batch: tuple[Sampled, ...]) -> _Packed | _Failure:
        sizes = [self.hw(sampled) for sampled in batch]
        # Of the global batch, so that all processes pad to the same size.
        min_hw = max(size[0] for size in sizes), max(size[1] for size in sizes)
        try:
            found = [self.sample(sampled) for sampled in batch[self.part]]
        except DataError as error:
            return _Failure(str(error))
        broken = [message for _, messages in found for message in messages]
        made = collate([sample for sample, _ in found], self.divisor, min_hw)
        if self.replaces:  # training
            seeds = tuple(sampled.detector_seed(self.seed) for sampled in batch[self.part])
            made = dataclasses.replace(made, seeds=seeds)
        return _Packed.pack(made, broken)

    def sample(self, sampled: Sampled) -> tuple[Sample, list[str]]:
        """The sample of an image, and messages about files that were replaced."""
        if self.replaces:
            return with_replacement(sampled, len(self.records), self.load)
        try:
            return self.load(sampled), []
        except DataError as error:
            return self.transformed(grey_sample(self.records[sampled.index]), sampled), [str(error)]

    def load(self, sampled: Sampled) -> Sample:
        record = self.records[sampled.index]
        if self.replaces or record.source is None:
            return self.transformed(load_sample(record, sampled.source_seed(self.seed)), sampled)
        # With the same seed as when the targets were read, whose boxes the metrics use.
        return self.transformed(load_sample(record, record.id), sampled)

    def transformed(self, sample: Sample, sampled: Sampled) -> Sample:
        plan = make_plan(sample.original_hw, self.transform, sampled.rng(self.seed))
        return apply(sample, plan, self.transform)


def _same(item: Any) -> Any:
    return item
