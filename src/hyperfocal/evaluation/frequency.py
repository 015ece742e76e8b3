"""Groups of categories by training frequency, such as LVIS's rare, common and frequent."""

from __future__ import annotations

from dataclasses import dataclass

from hyperfocal.config import Config
from hyperfocal.types import CategoryCounts

TAKEN = ("", "s", "m", "l", "75")
"""Suffixes of AP that have another meaning."""


@dataclass(frozen=True)
class FrequencyGroups(Config):
    """Groups of categories by their number of training images.

    The first group has the categories with 1 to ``bounds[0]`` training images, the next those up to
    and including ``bounds[1]``, and so on; the last has no bound. The defaults are LVIS's (Gupta et
    al. 2019): rare 1-10 images, common 11-100, frequent more. Categories without training images
    belong to no group, because they can't be learned.

    Examples:
        >>> groups = FrequencyGroups()
        >>> tuple(groups.group_of(images) for images in (0, 10, 11, 101))
        (None, 'r', 'c', 'f')
    """

    names: tuple[str, ...] = ("r", "c", "f")
    """Names from rarest to most frequent; group ``r`` is reported as ``APr``."""
    bounds: tuple[int, ...] = (10, 100)
    """Maximum training images of each group except the last."""

    def __post_init__(self) -> None:
        self._require(len(self.names) >= 1, "names", "at least one name")
        self._require(len(set(self.names)) == len(self.names), "names", "distinct names")
        free = all(name not in TAKEN and not name.startswith("50") for name in self.names)
        self._require(free, "names", "other names: APs, APm, APl, AP50 and AP75 are reserved")
        self._require(
            len(self.bounds) == len(self.names) - 1,
            "bounds",
            f"one number fewer than names ({len(self.names)})",
        )
        steps = zip((0, *self.bounds), self.bounds, strict=False)
        self._require(all(low < high for low, high in steps), "bounds", "positive and increasing")

    def group_of(self, train_images: int) -> str | None:
        """The group of a category with this many training images; None for 0."""
        if train_images <= 0:
            return None
        return self.names[sum(train_images > bound for bound in self.bounds)]

    def assign(self, counts: CategoryCounts) -> tuple[str | None, ...]:
        """The group of each category, in label order."""
        return tuple(self.group_of(images) for images in counts.images)
