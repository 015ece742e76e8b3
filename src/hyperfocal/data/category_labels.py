"""Labels of a source's categories, by the names and ids of the training split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.formats.raw import Problems, RawAnnotations, counted
from hyperfocal.files import shown
from hyperfocal.types import Category, category_index


def labels_by_id(
    raw: RawAnnotations, categories: Sequence[Category] | None, problems: Problems
) -> dict[int, int]:
    """Label of each category id of a source.

    Args:
        raw: the parsed annotations.
        categories: the training split's, in label order; None: the source's own.
        problems: collects errors and warnings.
    """
    if categories is None:
        return category_index(raw.categories)
    return _match(raw, categories, problems)


def labels_of_boxes(
    raw: RawAnnotations, label_of: dict[int, int], problems: Problems
) -> NDArray[np.int64]:
    """Label of each annotation; -1 if its category isn't in ``label_of``."""
    own = category_index(raw.categories)
    ids, first, inverse, counts = np.unique(
        raw.category_ids, return_index=True, return_inverse=True, return_counts=True
    )
    for value, index, count in zip(ids.tolist(), first.tolist(), counts.tolist(), strict=True):
        if value not in own:
            problems.errors.append(
                f"category id {value} is used {counted(count, 'time times')} (first: "
                f"{raw.describe(index)}) but is not among the categories; add it there or remove "
                "these annotations"
            )
    used = {value: n for n, value in enumerate(ids.tolist())}
    for category in raw.categories:
        if category.id in used and category.id not in label_of:
            n = used[category.id]
            problems.warn(
                int(counts[n]),
                "box boxes",
                f"of category {shown(category.name)} (id {category.id}) left out, because the "
                "training annotations have no such category",
                raw.describe(int(first[n])),
            )
    lookup = np.array([label_of.get(value, -1) for value in ids.tolist()], dtype=np.int64)
    return np.asarray(lookup[inverse], dtype=np.int64)


def _match(raw: RawAnnotations, wanted: Sequence[Category], problems: Problems) -> dict[int, int]:
    """Map from this source's category ids to labels of ``wanted``.

    Categories are matched by name, and by id only if several have the same name. Two files that
    number the same categories differently are therefore compatible.
    """
    by_both = {(category.id, category.name): n for n, category in enumerate(wanted)}
    by_name = {category.name: n for n, category in reversed(list(enumerate(wanted)))}
    by_id = {} if raw.made_up_ids else {category.id: category for category in wanted}
    names = {category.name for category in raw.categories}
    labels: dict[int, int] = {}
    for category in raw.categories:
        label = by_both.get((category.id, category.name), by_name.get(category.name))
        if label is not None:
            labels[category.id] = label
        elif category.id in by_id and by_id[category.id].name not in names:
            problems.errors.append(
                f"category id {category.id} is called {shown(category.name)} here but "
                f"{shown(by_id[category.id].name)} in the training annotations; give it one name"
            )
    if not raw.made_up_ids:  # such a format lists only what occurs
        _tell_of_matches(raw.categories, wanted, labels, problems)
    return labels


def _tell_of_matches(
    own: Sequence[Category],
    wanted: Sequence[Category],
    labels: Mapping[int, int],
    problems: Problems,
) -> None:
    """Warn about training categories that aren't listed here, and about those with another id."""
    names = {category.name for category in own}
    absent = [category.name for category in wanted if category.name not in names]
    problems.warn(
        len(absent),
        "category categories",
        "of the training annotations not listed here, so none of these boxes is theirs",
        repr(absent[0]) if absent else "",
    )
    other = [c for c in own if c.id in labels and wanted[labels[c.id]].id != c.id]
    first = f"{other[0].name!r}, id {other[0].id}" if other else ""
    problems.warn(
        len(other),
        "category categories",
        "with another id than in the training annotations, matched by name",
        first,
    )
