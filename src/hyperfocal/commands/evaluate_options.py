"""Options of `hyperfocal evaluate`, and which of them go together."""

from __future__ import annotations

import argparse
from pathlib import Path

from hyperfocal.commands.inference_options import (
    add_inference_options,
    check_max_detections,
)
from hyperfocal.commands.trust import add_trust
from hyperfocal.files import check_outputs
from hyperfocal.types import ConfigError

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


OPENIMAGES_FILES = {
    "image_labels": ("--data.image-labels", "image labels CSV"),
    "classes": ("--data.classes", "class descriptions CSV"),
    "hierarchy": ("--data.hierarchy", "hierarchy JSON"),
}
"""Options of the files that Open Images has beside its boxes, and what they are."""


def parse(words: list[str]) -> argparse.Namespace:
    """Parse and check the words of the command line.

    Raises:
        ConfigError: options that exclude each other, or a file that doesn't exist.
    """
    parser = _parser()
    args = parser.parse_args(words)
    _check(args)
    return args


def _parser() -> argparse.ArgumentParser:
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
    for dest, (option, what) in OPENIMAGES_FILES.items():
        parser.add_argument(
            option, dest=dest, type=Path, metavar="F", help=f"{what}, for openimages"
        )
    parser.add_argument(
        "--expand-detections",
        action="store_true",
        help="openimages: assign detections to all ancestors too; the official tool doesn't",
    )
    return parser


def _check(args: argparse.Namespace) -> None:
    """Raise `ConfigError` for options that exclude each other, and for files that don't exist."""
    from hyperfocal.runs.folder import RunFolder

    files = OPENIMAGES_FILES
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
    check_outputs("--json", outputs(args), [*named.values(), *run_files])


def outputs(args: argparse.Namespace) -> list[Path]:
    """The files that the command writes."""
    return [] if args.json is None else [args.json]
