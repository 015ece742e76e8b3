"""The categories that a detector was trained on: categories.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperfocal.types import Category, CategoryCounts, ConfigError


@dataclass(frozen=True)
class TrainedCategories:
    """The label space of a trained model.

    Attributes:
        categories: label ``k`` is ``categories[k]``.
        counts: how often each occurred in training; None for imported weights.
    """

    categories: tuple[Category, ...]
    counts: CategoryCounts | None = None

    def as_json(self) -> dict[str, Any]:
        """As JSON-serializable values."""
        counts = self.counts
        entries: list[dict[str, Any]] = []
        for label, category in enumerate(self.categories):
            entry: dict[str, Any] = {"id": category.id, "name": category.name}
            if counts is not None:
                entry["train_images"] = counts.images[label]
                entry["train_instances"] = counts.instances[label]
            entries.append(entry)
        return {"categories": entries, "train_images": counts.num_images if counts else None}

    @classmethod
    def from_json(cls, data: Any, source: Path) -> TrainedCategories:
        """The inverse of `as_json`.

        Raises:
            ConfigError: something is missing.
        """
        try:
            entries = data["categories"]
            categories = tuple(Category(int(e["id"]), str(e["name"])) for e in entries)
            if data["train_images"] is None:
                return cls(categories)
            counts = CategoryCounts(
                images=tuple(int(e["train_images"]) for e in entries),
                instances=tuple(int(e["train_instances"]) for e in entries),
                num_images=int(data["train_images"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"{source}: not a run's categories ({error!r})") from None
        return cls(categories, counts)
