"""The examination: reads both splits, runs all checks, and computes the statistics for advice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hyperfocal.data import SplitName, only_categories
from hyperfocal.data.formats.raw import RawAnnotations, RawImage
from hyperfocal.data.images import Header, limit_pixels
from hyperfocal.data.splits import Splits
from hyperfocal.experiment import Experiment
from hyperfocal.inspection.anchors import Fit, check_anchors, measure_fit
from hyperfocal.inspection.boxes import check_doubles
from hyperfocal.inspection.categories import (
    check_categories,
    check_category_ids,
    check_images_without_boxes,
)
from hyperfocal.inspection.copies import Picture, check_decoded, check_identical, decode_all
from hyperfocal.inspection.findings import Finding, worst_first
from hyperfocal.inspection.reading import Examined, check_split, read_split
from hyperfocal.types import AnnotationSet, ConfigError

Decode = Literal["none", "sample", "full"]
SAMPLE = 500
"""Images of each split that ``decode="sample"`` decodes."""

Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar with a name and a total; its result is called with the steps done."""


@dataclass(frozen=True)
class Examination:
    """Result of the checks.

    Attributes:
        experiment: the recipe with the user's flags and the paths of the data.
        findings: most severe first.
        train: the training split as used in training; None if nothing is usable.
        val: the validation split; None if there is none or nothing in it is usable.
        fit: how well the recipe's anchors match the training boxes; None for detectors that don't
            assign by a fixed IoU.
        looked_at: how far image files were read.
    """

    experiment: Experiment
    findings: tuple[Finding, ...]
    train: AnnotationSet | None
    val: AnnotationSet | None
    fit: Fit | None
    looked_at: str

    @property
    def has_errors(self) -> bool:
        """Whether something must be fixed before training."""
        return any(finding.severity == "error" for finding in self.findings)


@contextmanager
def silent(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A stage without a progress bar."""
    yield lambda steps: None


def examine(
    experiment: Experiment,
    decode: Decode = "none",
    stage: Stage = silent,
    memory: Splits | None = None,
) -> Examination:
    """Run all checks on an experiment's data.

    Args:
        experiment: the data and its training settings. If its ``data.check`` is ``none``, no image
            file is opened.
        decode: ``"none"`` reads the headers of image files, ``"sample"`` also decodes up to
            `SAMPLE` images of each split, ``"full"`` all of them.
        stage: creates progress bars.
        memory: the splits, if they are objects in memory; their boxes have been checked already.

    Raises:
        ConfigError: no training annotations are given, or settings contradict each other.
    """
    data = experiment.data
    if data.train.annotations is None and memory is None:
        raise ConfigError("no training annotations are given")
    if data.check == "none" and decode != "none":
        raise ConfigError(
            "--data.check none opens no images, but --decode needs them; add --decode none"
        )
    limit_pixels(data.max_pixels)
    findings: list[Finding] = []
    train: Examined | None
    val: Examined | None = None
    if memory is not None:
        train = _in_memory("train", memory.train)
        val = None if memory.val is None else _in_memory("val", memory.val)
    else:
        train = _split(experiment, "train", None, findings, stage)
        if data.val.annotations is not None:
            known = train.annotations if train is not None else None
            val = _split(experiment, "val", known, findings, stage)
    train, val = (
        None if split is None else _restricted(split, data.categories) for split in (train, val)
    )
    splits = [split for split in (train, val) if split is not None]
    for split in splits:
        findings += check_doubles(split)
        if split.annotations is not None:
            findings += check_images_without_boxes(split.name, split.annotations)
    fit = None
    train_set = train.annotations if train is not None else None
    val_set = val.annotations if val is not None else None
    if train_set is not None:
        groups = experiment.evaluation.groups
        findings += check_categories(train_set, val_set, groups)
        with stage("anchors", sum(len(r.labels) for r in train_set.images)) as advance:
            fit = measure_fit(experiment, train_set, advance)
        findings += check_anchors(experiment, train_set, fit)
    if val is None and (memory is not None or data.val.annotations is None):
        text = "there is no val split: the best weights can't be selected, nor overfitting detected"
        findings.append(Finding("warning", "no_val", "val", text))
    if data.check != "none":
        findings += _pictures(splits, decode, stage)
    looked_at = "none" if data.check == "none" else {"none": "headers"}.get(decode, decode)
    return Examination(experiment, tuple(worst_first(findings)), train_set, val_set, fit, looked_at)


def _restricted(examined: Examined, categories: Sequence[str]) -> Examined:
    """The split with the categories that will be trained on."""
    if examined.annotations is None:
        return examined
    return replace(examined, annotations=only_categories(examined.annotations, categories))


def _in_memory(name: SplitName, annotations: AnnotationSet) -> Examined:
    """A split in memory, in the form of one read from a file."""
    records = annotations.images
    raw = RawAnnotations(
        source=annotations.source,
        categories=annotations.categories,
        images=[RawImage(r.id, r.path.name, r.path, (r.height, r.width)) for r in records],
        image_ids=np.repeat([r.id for r in records], [len(r.labels) for r in records]),
        category_ids=np.array([c.id for c in annotations.categories], np.int64)[
            np.concatenate([np.zeros(0, np.int64), *(r.labels for r in records)])
        ],
        boxes=np.concatenate([np.zeros((0, 4)), *(r.boxes for r in records)]),
        crowd=np.concatenate([np.zeros(0, np.bool_), *(r.crowd for r in records)]),
        area=np.concatenate([np.zeros(0), *(r.area for r in records)]),
        describe=lambda n: f"box {n}",
        made_up_ids=True,
    )
    headers = [Header((r.height, r.width), (r.height, r.width)) for r in records]
    return Examined(name, raw, headers, annotations)


def _split(
    experiment: Experiment,
    name: SplitName,
    train: AnnotationSet | None,
    findings: list[Finding],
    stage: Stage,
) -> Examined | None:
    data = experiment.data
    split = data.val_split if name == "val" else data.train
    categories = train.categories if train is not None else None
    assert split.annotations is not None
    opens = data.check != "none"
    with stage(f"read {name}", 0):
        raw, found = read_split(name, split, categories, data.format)
    findings += found
    if raw is None:
        return None
    findings += check_category_ids(name, raw)
    with stage(f"open {name}", len(raw.images) if opens else 0) as advance:
        examined, found = check_split(
            name,
            raw,
            categories,
            open_images=opens,
            follow_links=data.follow_links,
            skip_bad=data.bad_images == "skip",
            advance=advance,
        )
    findings += found
    return examined


def _pictures(splits: Sequence[Examined], decode: Decode, stage: Stage) -> list[Finding]:
    records = {
        (split.name, record.id): record
        for split in splits
        if split.annotations is not None
        for record in split.annotations.images
        if record.source is not None
    }
    pictures = [
        Picture(split.name, image.path, image.id, records.get((split.name, image.id)))
        for split in splits
        for image, header in zip(split.raw.images, split.headers, strict=True)
        if isinstance(header, Header)
    ]
    findings = check_identical(pictures)
    if decode == "none":
        return findings
    chosen = pictures
    if decode == "sample":
        rng = np.random.default_rng(0)
        chosen = []
        for split in splits:
            own = [picture for picture in pictures if picture.split == split.name]
            some = rng.permutation(len(own))[:SAMPLE]
            chosen += [own[n] for n in np.sort(some).tolist()]
    with stage("decode", len(chosen)) as advance:
        decoded = decode_all(chosen, advance)
    return findings + check_decoded(decoded, len(pictures) if len(chosen) < len(pictures) else None)
