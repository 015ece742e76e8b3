"""Check of the category counts that some losses need."""

from __future__ import annotations

from hyperfocal.types import CategoryCounts, ConfigError


def require_counts(counts: CategoryCounts | None, num_classes: int, kind: str) -> CategoryCounts:
    """The counts, checked.

    Raises:
        ConfigError: there are no counts, or they have a different number of categories.
    """
    if counts is None:
        raise ConfigError(f"the loss {kind!r} needs the category counts of the training split")
    for what in ("images", "instances"):
        if len(given := getattr(counts, what)) != num_classes:
            raise ConfigError(
                f"the loss {kind!r} was given {what} of {len(given)} categories, but the model has "
                f"{num_classes}"
            )
    return counts
