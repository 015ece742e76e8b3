"""`hyperfocal.evaluate`: evaluate a run, a results file or any detector on annotations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfocal.api.data import Data, as_files, bar, in_memory
from hyperfocal.api.process_state import globals_restored
from hyperfocal.api.run import Run
from hyperfocal.types import (
    AnnotationSet,
    Category,
    CategoryCounts,
    ConfigError,
    DataError,
    Detections,
)

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from hyperfocal.engine.evaluate import Evaluation
    from hyperfocal.engine.predict import Predictor
    from hyperfocal.evaluation import ProtocolConfig
    from hyperfocal.experiment import Experiment

Detect = Callable[[list["Tensor"]], Sequence["Detections | Mapping[str, Tensor]"]]
"""A function from images ``(3, H, W)`` uint8 RGB to the detections in each: `Detections`, or a dict
with ``boxes`` (xyxy pixels of that image), ``scores`` and ``labels`` (``0..K-1``)."""


@globals_restored()
def evaluate(
    what: Run | str | Path | Detect | Mapping[int, Detections],
    data: Data,
    *,
    protocol: str | ProtocolConfig | None = None,
    categories: Sequence[str] | None = None,
    train: Data | None = None,
    batch_size: int = 8,
    trust: Sequence[str] = (),
    size: tuple[int, int | None] | None = None,
    max_detections: int | None = None,
    verbose: bool = True,
) -> Evaluation:
    """Evaluate detections: metrics overall, by frequency group and by category.

    Args:
        what: a `Run` or the path of a run folder; the path of a COCO results file (.json); a
            function from images to detections; or detections by image id.
        data: the split, as for `hyperfocal.train`.
        protocol: ``"coco"``, ``"lvis"``, ``"openimages"``, ``"module:Class"`` or the Config of a
            protocol; default: the run's own, else COCO's.
        categories: names in label order, for a torch Dataset or a function. A run has its own.
        train: the training split, whose category frequencies give APr, APc and APf. A run has its
            own.
        batch_size: images per call of a function.
        trust: modules that the components of a run folder may come from, as for `hyperfocal.load`.
        size: shorter side and maximum longer side in pixels that a run's images are resized to;
            None for the longer one keeps the run's ratio. Default: as in training.
        max_detections: maximum detections per image of a run, and the number evaluated per image
            (COCO: per image and category). None: the run's and the protocol's own.
        verbose: show progress.

    Returns:
        `Evaluation`, with ``metrics["AP"]`` and ``categories``.

    Raises:
        HyperfocalError: data or detections that can't be used; the message says how to fix it.

    Examples:
        >>> import hyperfocal
        >>> data = ("val.json", "val")
        >>> found = hyperfocal.evaluate("runs/mine", data, verbose=False)
        >>> 0 <= found.metrics["AP"] <= 1
        True
        >>> detector = hyperfocal.load("runs/mine").predict  # any function of images
        >>> again = hyperfocal.evaluate(
        ...     detector, data, categories=[c.name for c in found.categories], verbose=False
        ... )
    """
    from rich.console import Console

    from hyperfocal.config import named
    from hyperfocal.engine.detection_limits import warn_of_cut, warn_of_limits
    from hyperfocal.engine.evaluate import build_evaluator, measure
    from hyperfocal.engine.predict import adjusted, load
    from hyperfocal.evaluation import ProtocolConfig, read_results
    from hyperfocal.experiment import EvaluationConfig

    console = Console(quiet=not verbose)
    run = _as_run(what, trust)
    known = run.categories if run is not None else None
    annotations = _split(data, "data", categories, known, run, console, is_file=_is_file(what))
    config = EvaluationConfig() if run is None else run.experiment.evaluation
    if protocol is not None:
        rules: ProtocolConfig = (
            named(ProtocolConfig, protocol, "protocol") if isinstance(protocol, str) else protocol
        )
        expand = config.expand_detections and rules.kind == "openimages"
        config = dataclasses.replace(config, protocol=rules, expand_detections=expand)
    if max_detections is not None:
        config = dataclasses.replace(config, max_detections=max_detections)
    if size is not None and run is None:
        raise ConfigError("size is only for a run: other detections already have boxes")
    counts: CategoryCounts | None = run.counts if run is not None else None
    if train is not None:
        if run is not None:
            raise ConfigError("train is only for other detections: a run has its own counts")
        counts = _split(
            train, "train", categories, annotations.categories, None, console, True
        ).counts()
    build_evaluator(annotations, counts, config)  # fails early if something is missing
    settings = None if run is None else adjusted(run.experiment, size, max_detections)
    most = None if settings is None else settings.model.max_detections
    warn_of_limits(annotations, config, most)
    if run is not None and settings is not None:
        changed = size is not None or max_detections is not None
        model = (
            load(run.path, run.device, run.trust, size=size, max_detections=max_detections)
            if changed
            else run.predictor
        )
        found = _detect_with_run(model, settings, annotations, console)
    elif isinstance(what, str | Path):
        found = read_results(what, annotations)
    elif isinstance(what, Mapping):
        found = {int(image): _as_detections(value, image) for image, value in what.items()}
    else:
        assert callable(what)
        found = _detect_with_function(what, annotations, batch_size, console)
    if run is None:
        warn_of_cut(found, annotations, config)
    with bar(console, "match", len(annotations.images)) as advance:
        return measure(found, annotations, counts, config, advance)


def _is_file(what: object) -> bool:
    return isinstance(what, str | Path) and Path(what).is_file()


def _as_run(what: object, trust: Sequence[str]) -> Run | None:
    """The run that ``what`` is or names; None for results, functions and detections."""
    if isinstance(what, Run):
        return what
    if isinstance(what, str | Path):
        if not Path(what).exists():
            raise ConfigError(f"{what}: no such run folder or results file")
        return Run(what, trust=trust) if Path(what).is_dir() else None
    if callable(what) or isinstance(what, Mapping):
        return None
    raise ConfigError(
        f"expected a run, a results file, a function or detections by image id, found "
        f"{type(what).__name__}"
    )


def _split(
    data: Data,
    argument: str,
    categories: Sequence[str] | None,
    known: Sequence[Category] | None,
    run: Run | None,
    console: Console,
    is_file: bool,
) -> AnnotationSet:
    """The annotations of ``data``; images are checked only where they will be read."""
    from hyperfocal.data import Split, read_annotations
    from hyperfocal.data.splits import read_split

    files = as_files(data, argument)
    if files is None:
        names = categories or (None if known is None else [c.name for c in known])
        return in_memory(data, argument, names, known, console)
    if run is not None:
        place = Split(files.annotations, files.images)
        settings = dataclasses.replace(run.experiment.data, val=place, bad_images="error")
        return read_split(settings, "val", known, check="headers")
    return read_annotations(
        files.annotations,
        files.images,
        split="train" if argument == "train" else "val",
        categories=known,
        check="none" if is_file else "headers",
    )


def _detect_with_run(
    model: Predictor, settings: Experiment, annotations: AnnotationSet, console: Console
) -> dict[int, Detections]:
    from hyperfocal.data import eval_batches
    from hyperfocal.engine.evaluate import detect_all

    batches = eval_batches(settings.data, annotations, batch_size=settings.evaluation.batch_size)
    with bar(console, "evaluate", len(annotations.images)) as advance, model.autocast():
        found = detect_all(model.detector, batches, model.device, advance)
    assert found is not None  # it is never asked to stop
    return found


def _detect_with_function(
    detect: Detect, annotations: AnnotationSet, batch_size: int, console: Console
) -> dict[int, Detections]:
    from hyperfocal.data import load_sample

    records, found = annotations.images, {}
    with bar(console, "evaluate", len(records)) as advance:
        for start in range(0, len(records), batch_size):
            chunk = records[start : start + batch_size]
            results = detect([load_sample(record, record.id).image for record in chunk])
            if len(results) != len(chunk):
                raise DataError(
                    f"the function returned {len(results)} results for {len(chunk)} images"
                )
            for record, result in zip(chunk, results, strict=True):
                found[record.id] = _as_detections(result, record.id)
            advance(len(chunk))
    return found


def _as_detections(value: Any, image_id: int) -> Detections:
    if isinstance(value, Detections):
        return value
    try:
        return Detections(value["boxes"], value["scores"], value["labels"])
    except (KeyError, TypeError, IndexError):
        raise DataError(
            f"image id {image_id}: expected Detections or a dict with boxes, scores and labels, "
            f"found {type(value).__name__}"
        ) from None
