"""``hyperfocal evaluate``: evaluate a trained run, or a results file, on annotations."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfocal.commands.inference_options import (
    add_inference_options,
    check_max_detections,
    size_of,
)
from hyperfocal.commands.trust import add_trust
from hyperfocal.files import check_outputs
from hyperfocal.names import say
from hyperfocal.types import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from hyperfocal.engine.evaluate import Evaluation
    from hyperfocal.experiment import Experiment
    from hyperfocal.types import AnnotationSet, Detections

DESCRIPTION = """\
Evaluate detections: COCO's 12 metrics, AP by frequency group, and AP per category.

  hyperfocal evaluate RUN --data.annotations F --data.images D [--protocol P] [--json OUT]
      [--size SHORT [LONG]] [--max-detections N]
  hyperfocal evaluate --detections RESULTS.json --data.annotations F [--protocol lvis] [--json OUT]
      [--max-detections N]
  hyperfocal evaluate --detections RESULTS.csv --data.annotations BOXES.csv --protocol openimages
      --data.image-labels F --data.classes F --data.hierarchy F [--train.annotations BOXES.csv]

RESULTS.json has COCO's results format; images may be given by file_name instead of image_id, as in
predictions.json. Likely mistakes in it are reported.
APr/APc/APf need training frequencies: they are known for a run, and given in LVIS's file; otherwise
give the training annotations with --train.annotations.
RESULTS.csv has the columns ImageID, LabelName, Score, XMin, XMax, YMin, YMax, or is a submission to
the Open Images Challenge (ImageID, PredictionString); AP1 to AP5 need --train.annotations. A RUN is
evaluated on Open Images with the same four files and --data.images."""


def run(words: list[str]) -> int:
    """Parse the words, evaluate, print the tables."""
    args = _parse(words)
    if args.protocol == "openimages" and args.detections is not None:
        return _openimages(args)
    from rich.console import Console

    from hyperfocal.config import named
    from hyperfocal.data import AnnotationFormat, Split, read_annotations
    from hyperfocal.data.images import limit_pixels
    from hyperfocal.data.splits import read_split
    from hyperfocal.engine.detection_limits import detector_limit, warn_of_cut, warn_of_limits
    from hyperfocal.engine.evaluate import build_evaluator, measure, warn_of_coco
    from hyperfocal.engine.predict import adjusted
    from hyperfocal.evaluation import CocoProtocol, ProtocolConfig, read_results
    from hyperfocal.experiment import EvaluationConfig
    from hyperfocal.progress import ProgressBar
    from hyperfocal.runs.folder import RunFolder

    console = Console()
    format = named(AnnotationFormat, args.format, "--data.format") if args.format else None
    protocol = named(ProtocolConfig, args.protocol, "--protocol") if args.protocol else None
    experiment: Experiment | None = None
    if args.detections is not None:
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
        config = EvaluationConfig(protocol=protocol or CocoProtocol())
    else:
        folder = RunFolder(args.run)
        experiment = folder.read_experiment(args.trust)
        experiment = adjusted(experiment, size_of(args), args.max_detections)
        limit_pixels(experiment.data.max_pixels)
        trained = folder.read_categories()
        place = Split(
            args.annotations, args.images, args.classes, args.image_labels, args.hierarchy
        )
        data = replace(
            experiment.data,
            val=place,
            format=format or experiment.data.format,
            bad_images=args.bad_images,
            follow_links=args.follow_links or experiment.data.follow_links,
        )
        annotations = read_split(data, "val", trained.categories, check="headers")
        counts, config = trained.counts, experiment.evaluation
        protocol = protocol or config.protocol
        expand = config.expand_detections and protocol.kind == "openimages"
        config = replace(
            config, protocol=protocol, expand_detections=expand or args.expand_detections
        )
    if args.max_detections is not None:
        config = replace(config, max_detections=args.max_detections)
    images = [record.path for record in annotations.images if record.source is None]
    check_outputs("--json", _outputs(args), images)
    build_evaluator(annotations, counts, config)  # fails early if something is missing
    warn_of_coco(annotations, config)
    rules = config.protocol.kind or type(config.protocol).__qualname__
    settings: dict[str, Any] = {"protocol": rules, "limit": config.limit}
    if experiment is None:
        warn_of_limits(annotations, config)
        found = read_results(args.detections, annotations)
        if len(found) < len(annotations.images):
            say(console, f"results for {len(found)} of {len(annotations.images)} images")
        warn_of_cut(found, annotations, config)
    else:
        most = detector_limit(experiment.model)
        warn_of_limits(annotations, config, most)
        transform = experiment.data.val_transform
        settings |= {"short": transform.short, "long": transform.long, "max_detections": most}
        found = _detect(args, experiment, annotations, console)
    total = len(annotations.images)
    with ProgressBar(console, "match", total, "images", transient=True) as bar:
        result = measure(found, annotations, counts, config, bar.advance)
    _print_result(result, args, settings, console)
    return 0


def _openimages(args: argparse.Namespace) -> int:
    import numpy as np
    from rich.console import Console

    from hyperfocal.data.openimages import read_boxes, read_classes, read_openimages
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


def _outputs(args: argparse.Namespace) -> list[Path]:
    return [] if args.json is None else [args.json]


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


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hyperfocal evaluate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--detections", type=Path, metavar="F", help="results file instead of a run"
    )
    parser.add_argument(
        "--data.annotations",
        dest="annotations",
        type=Path,
        metavar="F",
        required=True,
        help="COCO JSON, YOLO data.yaml, folder of VOC XML, or Open Images CSV of boxes",
    )
    parser.add_argument(
        "--data.format",
        dest="format",
        metavar="F",
        help="module:Class of your own dataset format (default: the run's, else detected)",
    )
    parser.add_argument("--data.images", dest="images", type=Path, metavar="D", help="image folder")
    parser.add_argument(
        "--train.annotations",
        dest="train_annotations",
        type=Path,
        metavar="F",
        help="training annotations, for APr/APc/APf of --detections",
    )
    parser.add_argument(
        "--protocol",
        metavar="P",
        help="coco, lvis, openimages or module:Class of your own protocol (default: the run's; "
        "with --detections, coco)",
    )
    parser.add_argument(
        "--data.follow-links",
        dest="follow_links",
        action="store_true",
        help="use image files that are links out of the image folder (default: as in the run)",
    )
    parser.add_argument(
        "--data.bad-images",
        dest="bad_images",
        choices=["error", "skip"],
        default="error",
        help="if images can't be used: stop, or skip them with a warning",
    )
    add_trust(parser)
    add_inference_options(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all metrics as JSON")
    parser.add_argument("--device", default="auto", help="default: a GPU if there is one")
    files = {
        "image_labels": ("--data.image-labels", "image labels CSV"),
        "classes": ("--data.classes", "class descriptions CSV"),
        "hierarchy": ("--data.hierarchy", "hierarchy JSON"),
    }
    for dest, (option, what) in files.items():
        parser.add_argument(
            option, dest=dest, type=Path, metavar="F", help=f"{what}, for openimages"
        )
    parser.add_argument(
        "--expand-detections",
        action="store_true",
        help="openimages: assign detections to all ancestors too; the official tool doesn't",
    )
    args = parser.parse_args(words)
    from hyperfocal.runs.folder import RunFolder

    given = [option for dest, (option, _) in files.items() if getattr(args, dest) is not None]
    if args.protocol == "openimages":
        missing = [f"{o} ({w})" for o, w in files.values() if o not in given]
        if missing:
            raise ConfigError(f"--protocol openimages also needs {', '.join(missing)}")
        if args.images is not None and args.detections is not None:
            raise ConfigError(
                "--protocol openimages needs no images for --detections; remove --data.images"
            )
    elif (given or args.expand_detections) and args.run is None:
        option = (given or ["--expand-detections"])[0]
        raise ConfigError(f"{option} is for --protocol openimages only")
    if (args.run is None) == (args.detections is None):
        raise ConfigError("hyperfocal evaluate needs either a RUN folder or --detections FILE")
    if args.train_annotations is not None and args.detections is None:
        raise ConfigError("--train.annotations is only for --detections: a RUN has its frequencies")
    if args.run is not None and not args.run.exists():
        raise ConfigError(f"{args.run}: no such run folder")
    named = {
        "--data.annotations": args.annotations,
        "--data.images": args.images,
        "--detections": args.detections,
        "--train.annotations": args.train_annotations,
        **{option: getattr(args, dest) for dest, (option, _) in files.items()},
    }
    for option, path in named.items():
        if path is not None and not path.exists():
            raise ConfigError(f"{option} {path}: no such file or folder")
    check_max_detections(args)
    if args.size is not None and args.run is None:
        raise ConfigError("--size is only for a RUN: results already have boxes")
    run_files = [] if args.run is None else RunFolder(args.run).files
    check_outputs("--json", _outputs(args), [*named.values(), *run_files])
    return args
