"""Categories that can't be learnt or evaluated, and ids that are off by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from hyperfocal.data.formats.raw import RawAnnotations, SplitName
from hyperfocal.evaluation import FrequencyGroups
from hyperfocal.files import shown
from hyperfocal.inspection.findings import Case, Finding, Severity
from hyperfocal.names import one_name
from hyperfocal.types import AnnotationSet, CategoryCounts


def check_category_ids(name: SplitName, raw: RawAnnotations) -> list[Finding]:
    """Ids missing from the categories that would all exist if they were one higher or lower.

    Must be called before annotations of unknown categories are removed.
    """
    return _shifted(
        name,
        "category",
        np.unique(raw.category_ids),
        np.array([category.id for category in raw.categories], dtype=np.int64),
        "every box is trained with the wrong category",
    ) + _shifted(
        name,
        "image",
        np.unique(raw.image_ids),
        np.array([image.id for image in raw.images], dtype=np.int64),
        "every box is on the wrong image",
    )


def _shifted(
    name: SplitName,
    thing: str,
    used: np.ndarray[tuple[int], np.dtype[np.int64]],
    listed: np.ndarray[tuple[int], np.dtype[np.int64]],
    so: str,
) -> list[Finding]:
    if not len(used) or not len(listed) or np.isin(used, listed).all():
        return []
    for shift in (1, -1):
        if np.isin(used + shift, listed).all():
            where = "low" if shift == 1 else "high"
            text = (
                f"the annotations' {thing} ids are one too {where}: they range from {used[0]} to "
                f"{used[-1]}, the list of {thing} ids from {listed.min()} to {listed.max()}, and "
                f"all of them exist when shifted by one. Unless corrected, {so}"
            )
            return [Finding("error", f"{thing}_ids_off_by_one", name, text, len(used))]
    return []


def check_categories(
    train: AnnotationSet, val: AnnotationSet | None, groups: FrequencyGroups
) -> list[Finding]:
    """Categories with no or few boxes, and names that differ only in spelling."""
    counts = train.counts()
    names = [category.name for category in train.categories]
    findings = _alike(names)
    absent = [k for k, n in enumerate(counts.instances) if n == 0]
    if absent:
        text = (
            f"{len(absent)} of {len(names)} categories have no training boxes "
            f"({_some(names, absent)}), so they can't be learnt"
        )
        findings.append(Finding("warning", "no_training_boxes", "train", text, len(absent)))
    rarest = groups.bounds[0] if groups.bounds else 0
    few = [k for k, n in enumerate(counts.images) if 0 < n <= rarest]
    if few:
        few.sort(key=lambda k: counts.images[k])
        text = (
            f"{len(few)} of {len(names)} categories are in {rarest} or fewer training images and "
            f"thus rare by LVIS's definition ({_some(names, few, counts)}); see the advice on "
            "sampling and loss"
        )
        findings.append(Finding("warning", "few_training_images", "train", text, len(few)))
    if val is not None:
        measured = val.counts()
        unseen = [k for k, n in enumerate(measured.instances) if n == 0 and counts.instances[k]]
        if unseen:
            text = (
                f"{len(unseen)} of {len(names)} categories have no validation boxes "
                f"({_some(names, unseen)}): they aren't part of AP, so how well they are detected "
                "remains unknown"
            )
            findings.append(Finding("warning", "no_validation_boxes", "val", text, len(unseen)))
        lost = [k for k, n in enumerate(measured.instances) if n and not counts.instances[k]]
        if lost:
            text = (
                f"{len(lost)} categories have validation boxes but no training boxes "
                f"({_some(names, lost)}): their AP will be 0"
            )
            findings.append(Finding("warning", "only_in_validation", "val", text, len(lost)))
    return findings


def check_images_without_boxes(name: SplitName, annotations: AnnotationSet) -> list[Finding]:
    """Images without boxes: background to learn from, or images not annotated."""
    empty = [r for r in annotations.images if not len(r.labels)]
    if not empty:
        return []
    share = len(empty) / len(annotations.images)
    text = (
        f"{len(empty)} of {len(annotations.images)} images have no boxes; training treats them as "
        "background, so make sure that they have no unannotated objects"
    )
    cases = tuple(Case(str(r.path), r.id) for r in empty[:50])
    severity: Severity = "warning" if share > 0.5 else "note"
    return [Finding(severity, "images_without_boxes", name, text, len(empty), cases)]


def _alike(names: Sequence[str]) -> list[Finding]:
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings["".join(name.lower().replace("_", " ").replace("-", " ").split())].append(name)
    alike = [group for group in spellings.values() if len(group) > 1]
    if not alike:
        return []
    examples = "; ".join(" / ".join(map(shown, group)) for group in alike[:5])
    text = f"{len(alike)} groups of categories differ only in spelling ({examples}): merge them?"
    return [Finding("warning", "similar_names", "", text, len(alike))]


def _some(names: Sequence[str], which: Sequence[int], counts: CategoryCounts | None = None) -> str:
    shown = [one_name(names[k]) + (f": {counts.images[k]}" if counts else "") for k in which[:8]]
    return ", ".join(shown) + (" ..." if len(which) > 8 else "")
