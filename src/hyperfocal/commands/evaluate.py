"""``hyperfocal evaluate``: evaluate a trained run, or a results file, on annotations."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hyperfocal.commands.evaluate_options import outputs, parse
from hyperfocal.commands.inference_options import size_of
from hyperfocal.files import check_outputs
from hyperfocal.names import say

if TYPE_CHECKING:
    from rich.console import Console

    from hyperfocal.engine.evaluate import Evaluation
    from hyperfocal.experiment import EvaluationConfig, Experiment
    from hyperfocal.types import AnnotationSet, CategoryCounts, Detections


def run(words: list[str]) -> int:
    """Parse the words, evaluate, print the tables."""
    args = parse(words)
    if args.protocol == "openimages" and args.detections is not None:
        return _evaluate_openimages_files(args)
    return _evaluate_results(args) if args.run is None else _evaluate_run(args)


def _evaluate_run(args: argparse.Namespace) -> int:
    """Detect objects with a trained run and evaluate them."""
    from rich.console import Console

    from hyperfocal.config import named
    from hyperfocal.data import AnnotationFormat, Split
    from hyperfocal.data.images import limit_pixels
    from hyperfocal.data.splits import read_split
    from hyperfocal.engine.detection_limits import warn_of_limits
    from hyperfocal.engine.predict import adjusted
    from hyperfocal.evaluation import ProtocolConfig
    from hyperfocal.runs.folder import RunFolder

    console, folder = Console(), RunFolder(args.run)
    format = named(AnnotationFormat, args.format, "--data.format") if args.format else None
    protocol = named(ProtocolConfig, args.protocol, "--protocol") if args.protocol else None
    experiment = adjusted(folder.read_experiment(args.trust), size_of(args), args.max_detections)
    limit_pixels(experiment.data.max_pixels)
    trained = folder.read_categories()
    data = replace(
        experiment.data,
        val=Split(args.annotations, args.images, args.classes, args.image_labels, args.hierarchy),
        format=format or experiment.data.format,
        bad_images=args.bad_images,
        follow_links=args.follow_links or experiment.data.follow_links,
    )
    annotations = read_split(data, "val", trained.categories, check="headers")
    config = experiment.evaluation
    protocol = protocol or config.protocol
    expand = config.expand_detections and protocol.kind == "openimages"
    config = _with_limit(
        replace(config, protocol=protocol, expand_detections=expand or args.expand_detections), args
    )
    _check_before(args, annotations, trained.counts, config)
    most = experiment.model.max_detections
    warn_of_limits(annotations, config, most)
    found = _detect(args, experiment, annotations, console)
    transform = experiment.data.val_transform
    of_run = {"short": transform.short, "long": transform.long, "max_detections": most}
    _measure(found, annotations, trained.counts, config, args, of_run, console)
    return 0


def _evaluate_results(args: argparse.Namespace) -> int:
    """Evaluate a COCO results file."""
    from rich.console import Console

    from hyperfocal.config import named
    from hyperfocal.data import AnnotationFormat, read_annotations
    from hyperfocal.engine.detection_limits import warn_of_cut, warn_of_limits
    from hyperfocal.evaluation import CocoProtocol, ProtocolConfig, read_results
    from hyperfocal.experiment import EvaluationConfig

    console = Console()
    format = named(AnnotationFormat, args.format, "--data.format") if args.format else None
    protocol = named(ProtocolConfig, args.protocol, "--protocol") if args.protocol else None
    annotations = read_annotations(
        args.annotations, args.images, check="none", split="val", format=format
    )
    counts = None
    if args.train_annotations is not None:
        counts = read_annotations(
            args.train_annotations,
            None,
            check="none",
            categories=annotations.categories,
            format=format,
        ).counts()
    config = _with_limit(EvaluationConfig(protocol=protocol or CocoProtocol()), args)
    _check_before(args, annotations, counts, config)
    warn_of_limits(annotations, config)
    found = read_results(args.detections, annotations)
    if len(found) < len(annotations.images):
        say(console, f"results for {len(found)} of {len(annotations.images)} images")
    warn_of_cut(found, annotations, config)
    _measure(found, annotations, counts, config, args, {}, console)
    return 0


def _with_limit(config: EvaluationConfig, args: argparse.Namespace) -> EvaluationConfig:
    if args.max_detections is None:
        return config
    return replace(config, max_detections=args.max_detections)


def _check_before(
    args: argparse.Namespace,
    annotations: AnnotationSet,
    counts: CategoryCounts | None,
    config: EvaluationConfig,
) -> None:
    """Check before the work that the annotations have what the protocol needs."""
    from hyperfocal.engine.evaluate import build_evaluator, warn_of_coco

    images = [record.path for record in annotations.images if record.source is None]
    check_outputs("--json", outputs(args), images)
    build_evaluator(annotations, counts, config)
    warn_of_coco(annotations, config)


def _measure(
    found: dict[int, Detections],
    annotations: AnnotationSet,
    counts: CategoryCounts | None,
    config: EvaluationConfig,
    args: argparse.Namespace,
    settings: dict[str, Any],
    console: Console,
) -> None:
    """Evaluate the detections, and print and write the result."""
    from hyperfocal.engine.evaluate import measure
    from hyperfocal.progress import ProgressBar

    rules = config.protocol.kind or type(config.protocol).__qualname__
    with ProgressBar(console, "match", len(annotations.images), "images", transient=True) as bar:
        result = measure(found, annotations, counts, config, bar.advance)
    settings = {"protocol": rules, "limit": config.limit} | settings
    _print_result(result, args, settings, console)


def _evaluate_openimages_files(args: argparse.Namespace) -> int:
    """Evaluate an Open Images results file (CSV)."""
    import numpy as np
    from rich.console import Console

    from hyperfocal.data.formats.openimages import read_boxes, read_classes, read_openimages
    from hyperfocal.engine.evaluate import Evaluation
    from hyperfocal.evaluation import evaluate_openimages
    from hyperfocal.evaluation.result_checks import check_openimages_results
    from hyperfocal.progress import ProgressBar

    truth = read_openimages(args.annotations, args.image_labels, args.classes, args.hierarchy)
    label_of = {name: n for n, (name, _) in enumerate(read_classes(args.classes))}
    train_boxes = None
    if args.train_annotations is not None:
        train_boxes = [0] * len(label_of)
        boxes = read_boxes(args.train_annotations, label_of, "IsGroupOf")
        single = boxes.labels[boxes.value == 0]
        train_boxes = np.bincount(single, minlength=len(label_of)).tolist()
    found = read_boxes(args.detections, label_of, "Score")
    check_openimages_results(found, truth, args.detections)
    console = Console()
    listed = {*truth.boxes.names, *(image for image, _ in truth.positive | truth.negative)}
    given = len(listed & {found.names[n] for n in set(found.image.tolist())})
    if given < len(listed):
        say(console, f"results for {given} of {len(listed)} images")
    with ProgressBar(console, "match", len(listed), "images", transient=True) as bar:
        result = evaluate_openimages(
            truth,
            found,
            expand_detections=args.expand_detections,
            max_detections=args.max_detections,
            train_boxes=train_boxes,
            advance=bar.advance,
        )
    settings = {"protocol": args.protocol, "limit": args.max_detections}
    _print_result(Evaluation(*result), args, settings, console)
    return 0


def _print_result(
    result: Evaluation, args: argparse.Namespace, settings: dict[str, Any], console: Console
) -> None:
    from hyperfocal.evaluation import category_table, metrics_table
    from hyperfocal.runs.json_files import write_json

    console.print(category_table(result.categories))
    console.print(metrics_table(result.metrics))
    if args.json is not None:
        source = {
            "run": args.run, "detections": args.detections, "annotations": args.annotations
        }  # fmt: skip
        settings = {k: str(v) for k, v in source.items() if v is not None} | settings
        write_json(args.json, result.as_json() | {"settings": settings})
        say(console, f"written: {args.json}")


def _detect(
    args: argparse.Namespace, experiment: Experiment, annotations: AnnotationSet, console: Console
) -> dict[int, Detections]:
    from hyperfocal.data import eval_batches
    from hyperfocal.engine.evaluate import detect_all
    from hyperfocal.engine.predict import load
    from hyperfocal.progress import ProgressBar

    model = load(
        args.run, args.device, args.trust, size=size_of(args), max_detections=args.max_detections
    )
    batches = eval_batches(
        experiment.data, annotations, batch_size=experiment.evaluation.batch_size
    )
    total = len(annotations.images)
    with ProgressBar(console, "evaluate", total, "images", transient=True) as bar, model.autocast():
        found = detect_all(model.detector, batches, model.device, bar.advance)
    assert found is not None  # it is never asked to stop
    return found
