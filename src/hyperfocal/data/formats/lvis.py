"""LVIS's additions to COCO's format: the categories that were verified for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hyperfocal.data.formats.raw import Problems
from hyperfocal.files import shown
from hyperfocal.types import Federated

FREQUENCIES = ("r", "c", "f")


def read_federated(
    images: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    problems: Problems,
) -> Federated:
    """``neg_category_ids`` and ``not_exhaustive_category_ids`` of each image, and ``frequency``.

    Args:
        images: entries with whole-numbered ids.
        categories: entries with whole-numbered ids.
        problems: collects an error for a missing list or an unknown category id.

    Returns:
        Category ids in place of labels; ``frequency`` in the order of the category ids.
    """
    known = {entry["id"] for entry in categories}
    negative, not_exhaustive = (
        {entry["id"]: _ids(entry, key, known, problems) for entry in images}
        for key in ("neg_category_ids", "not_exhaustive_category_ids")
    )
    stated = [entry.get("frequency") for entry in sorted(categories, key=lambda e: int(e["id"]))]
    whole = all(value in FREQUENCIES for value in stated)
    return Federated(negative, not_exhaustive, tuple(stated) if whole else None)


def with_labels(raw: Federated, label_of: Mapping[int, int], rows: Sequence[int]) -> Federated:
    """The same lists with labels instead of category ids.

    Args:
        raw: result of `read_federated`.
        label_of: map from category id to label; other ids are dropped.
        rows: for each label, the row of its category in ``raw.frequency``; -1 for none.
    """

    def labels(lists: Mapping[int, frozenset[int]]) -> dict[int, frozenset[int]]:
        return {
            image: frozenset(label_of[i] for i in ids if i in label_of)
            for image, ids in lists.items()
        }

    stated = raw.frequency
    frequency = None if stated is None else tuple(stated[r] if r >= 0 else None for r in rows)
    return replace(
        raw,
        negative=labels(raw.negative),
        not_exhaustive=labels(raw.not_exhaustive),
        frequency=frequency,
    )


def _ids(entry: Mapping[str, Any], key: str, known: set[int], problems: Problems) -> frozenset[int]:
    values = entry.get(key)
    if not isinstance(values, list):
        problems.errors.append(
            f"image id {entry['id']} has no list {key!r}, but others have; LVIS needs it in every "
            "image (it may be empty)"
        )
        return frozenset()
    for value in values:
        if type(value) is not int or value not in known:
            problems.errors.append(
                f"image id {entry['id']}: {key} names {shown(value)}, which is no category id"
            )
            return frozenset()
    return frozenset(values)
