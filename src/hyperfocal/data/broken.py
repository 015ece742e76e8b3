"""Image files that become unreadable during training: counted and replaced, up to a limit."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import torch

from hyperfocal.data.batches import Sampled
from hyperfocal.data.transforms import FILL
from hyperfocal.types import DataError, HyperfocalWarning, ImageRecord, Sample, Target

TRIES = 20
"""Images tried in place of one that broke."""

MAX_NAMED = 10
"""Broken files that the error names."""


class BrokenFileWarning(HyperfocalWarning):
    """Emitted by the process that could not read the file."""


class BrokenFiles:
    """Counts files that could be read before training and can't be any more.

    Args:
        num_images: number of images that this process reads.
        limit: fraction of them above which the run stops.
        instead: what replaces a broken image, for the warning.
    """

    def __init__(self, num_images: int, limit: float, instead: str) -> None:
        self.num_images, self.limit, self.instead = num_images, limit, instead
        self.messages: dict[str, None] = {}

    def note(self, messages: Sequence[str]) -> None:
        """Count broken files, each once, with a warning.

        Args:
            messages: one message per file, beginning with the image id and the file name.

        Raises:
            DataError: more files than the limit are broken; the message names them.
        """
        for message in messages:
            if message in self.messages:
                continue
            self.messages[message] = None
            count = len(self.messages)
            if count > self.limit * self.num_images:
                named = list(self.messages)
                lines = [
                    f"{count} of {self.num_images} images broke during the run, more than the "
                    f"share that --data.max-broken allows ({self.limit:g}):",
                    *named[:MAX_NAMED],
                ]
                if count > MAX_NAMED:
                    lines.append(f"... and {count - MAX_NAMED} more")
                raise DataError("\n  ".join(lines))
            warnings.warn(
                f"{message}; {self.instead} ({count} of {self.num_images} images so far)",
                BrokenFileWarning,
                stacklevel=2,
            )


def with_replacement(
    sampled: Sampled, num_images: int, load: Callable[[Sampled], Sample]
) -> tuple[Sample, list[str]]:
    """A training sample, or if its file is broken, one of the next images of the split.

    The replacement is the same in every process and every epoch as long as the same files are
    broken. It is augmented with the broken image's seed.

    Returns:
        The sample, and messages about the files that were skipped.

    Raises:
        DataError: none of the next images can be read either.
    """
    messages: list[str] = []
    for step in range(min(TRIES, num_images)):
        index = (sampled.index + step) % num_images
        try:
            return load(dataclasses.replace(sampled, index=index)), messages
        except DataError as error:
            messages.append(str(error))
    raise DataError("none of these can be read:\n  " + "\n  ".join(messages[:MAX_NAMED]))


def grey_sample(record: ImageRecord) -> Sample:
    """An evaluation sample in place of one whose file is broken: nothing will be detected in it."""
    hw = record.height, record.width
    image = torch.full((3, *hw), FILL, dtype=torch.uint8)
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    return Sample(image, target, record.id, hw)
