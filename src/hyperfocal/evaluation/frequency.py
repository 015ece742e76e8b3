"""Groups of categories by how often they occur in training, such as LVIS's rare and frequent."""

from __future__ import annotations

from dataclasses import dataclass

from hyperfocal.config import Config
from hyperfocal.types import CategoryCounts

TAKEN = ("", "s", "m", "l", "75")
"""What AP, with these behind it, means already."""


@dataclass(frozen=True)
class FrequencyGroups(Config):
    """Any number of groups of categories, divided by their number of training images.

    The first group holds categories with 1 to ``bounds[0]`` training images, the next up to and
    including ``bounds[1]``, and so on; the last has no bound. The defaults are LVIS's (Gupta et
    al. 2019): rare 1-10 images, common 11-100, frequent more. A category without any training
    image belongs to no group: nothing could be learned about it.

    Example:
        >>> groups = FrequencyGroups()
        >>> tuple(groups.group_of(images) for images in (0, 10, 11, 101))
        (None, 'r', 'c', 'f')
    """

    names: tuple[str, ...] = ("r", "c", "f")
    """Names from rarest to most frequent; group ``r`` is reported as ``APr``."""
    bounds: tuple[int, ...] = (10, 100)
    """Most training images of each group but the last."""

    def __post_init__(self) -> None:
        self._require(len(self.names) >= 1, "names", "at least one name")
        self._require(len(set(self.names)) == len(self.names), "names", "names that differ")
        free = all(name not in TAKEN and not name.startswith("50") for name in self.names)
        self._require(free, "names", "others: APs, APm, APl, AP50 and AP75 have their meaning")
        self._require(
            len(self.bounds) == len(self.names) - 1,
            "bounds",
            f"one number fewer than there are names ({len(self.names)})",
        )
        steps = zip((0, *self.bounds), self.bounds, strict=False)
        self._require(all(low < high for low, high in steps), "bounds", "positive and rising")

    def group_of(self, train_images: int) -> str | None:
        """The group of a category with this many training images; None for 0."""
        if train_images <= 0:
            return None
        return self.names[sum(train_images > bound for bound in self.bounds)]

    def assign(self, counts: CategoryCounts) -> tuple[str | None, ...]:
        """The group of every category, in the order of the labels."""
        return tuple(self.group_of(images) for images in counts.images)
