"""``hyperfocal predict RUN PATH... --out D``: images with detections, and predictions.json."""

from __future__ import annotations

import argparse
import glob
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfocal.commands.inference_options import (
    add_inference_options,
    check_max_detections,
    size_of,
)
from hyperfocal.commands.trust import add_trust
from hyperfocal.files import check_folder, check_outputs, load_json
from hyperfocal.names import say, shortened
from hyperfocal.types import ConfigError, DataError, HyperfocalError

if TYPE_CHECKING:
    from rich.console import Console

    from hyperfocal.engine.predict import Predictor
    from hyperfocal.types import Category, Detections

DESCRIPTION = """\
Detect objects in image files, folders or glob patterns.

  hyperfocal predict RUN photos 'more/*.jpg' --out D [--size SHORT [LONG]] [--max-detections N]

D gets a copy of each image with its detections drawn, predictions.json (COCO's results format with
the image's file_name, for `hyperfocal evaluate --detections`) and predict.json (the settings, and
the drawn copy of each image). Only files of an earlier predict are overwritten."""

MOST_BYTES = 200
"""Maximum length of an output image's name; file systems allow 255."""


def run(words: list[str]) -> int:
    """Detect objects in all images found; write drawn images and predictions.json."""
    args = _parse(words)
    size = size_of(args)
    written = _written_before(args.out)
    paths = find_images(args.paths)
    earlier = {os.path.realpath(args.out / name) for name in written}
    own = [path for path in paths if not earlier or os.path.realpath(path) not in earlier]
    left_out = len(paths) - len(own)
    paths = own or paths
    pictures = _picture_names(paths)
    _check_written(args, paths, pictures, written)

    from rich.console import Console

    from hyperfocal.data.images import limit_pixels
    from hyperfocal.engine.predict import load
    from hyperfocal.runs.json_files import write_json

    console = Console()
    model = load(args.run, args.device, args.trust, size=size, max_detections=args.max_detections)
    limit_pixels(args.max_pixels or model.max_pixels)
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "run": str(args.run),
        "short": model.transform.short,
        "long": model.transform.long,
        "max_detections": model.max_detections,
        "score": args.score,
    }
    # Written first, so that output images are known as such even if predict is interrupted.
    listed: dict[str, str | None] = {}
    listed |= {n: None for n in sorted(written) if (args.out / n).exists()}
    listed |= dict(sorted((name, str(path)) for path, name in pictures.items()))
    (args.out / "predictions.json").unlink(missing_ok=True)
    write_json(args.out / "predict.json", {"settings": settings, "pictures": listed})
    if left_out and own:
        say(console, f"skipped {left_out} output images of an earlier predict in {args.out}")
    predictions, drawn, unreadable = _predict(model, paths, pictures, args, console)
    write_json(args.out / "predictions.json", predictions)
    say(
        console,
        f"{len(paths) - len(unreadable)} images, {len(predictions)} detections in {args.out}: "
        f"predictions.json, and images with the {drawn} of score {args.score:g} or more drawn",
    )
    for message in unreadable:
        say(console, f"skipped: {message}")
    return 2 if unreadable else 0


def _predict(
    model: Predictor,
    paths: Sequence[Path],
    pictures: dict[Path, str],
    args: argparse.Namespace,
    console: Console,
) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Entries of predictions.json, number of detections drawn, and errors of unreadable files."""
    from hyperfocal.data import read_image
    from hyperfocal.figures import draw_detections
    from hyperfocal.progress import ProgressBar

    names = [category.name for category in model.categories]
    predictions: list[dict[str, Any]] = []
    drawn, unreadable = 0, []
    with ProgressBar(console, "predict", len(paths), "images") as progress:
        for start in range(0, len(paths), args.batch_size):
            chunk = []
            for path in paths[start : start + args.batch_size]:
                try:
                    chunk.append((path, read_image(path)))
                except DataError as error:
                    unreadable.append(str(error))
            found = model.predict([image for _, image in chunk], batch_size=args.batch_size)
            for (path, image), detections in zip(chunk, found, strict=True):
                drawn += int((detections.scores >= args.score).sum())
                predictions += as_results(path, detections, model.categories)
                picture = args.out / pictures[path]
                draw_detections(image, detections, names, picture, score=args.score)
            progress.advance(min(args.batch_size, len(paths) - start))
    return predictions, drawn, unreadable


def _written_before(out: Path) -> set[str]:
    """Names of the images that an earlier predict wrote there."""
    try:
        names = load_json(out / "predict.json")["pictures"]
        return {name for name in names if isinstance(name, str) and Path(name).name == name}
    except (OSError, HyperfocalError, KeyError, TypeError):
        return set()


def _check_written(
    args: argparse.Namespace, paths: Iterable[Path], pictures: dict[Path, str], written: set[str]
) -> None:
    """Check that only outputs of an earlier predict are overwritten.

    Raises:
        ConfigError: an output is an input, or another program's file.
    """
    from hyperfocal.runs.folder import RunFolder

    ours = [args.out / name for name in ("predictions.json", "predict.json")]
    outputs = [*ours, *(args.out / name for name in pictures.values())]
    check_outputs("--out", outputs, [*paths, *RunFolder(args.run).files])
    known = {_alike(name) for name in written}
    if (args.out / "predict.json").exists():
        known.add("predictions.json")
    for name in ("predictions.json", *pictures.values()):
        if os.path.lexists(args.out / name) and _alike(name) not in known:
            raise ConfigError(
                f"--out {args.out}: {args.out / name} exists but wasn't written by an "
                "earlier predict; choose an empty folder"
            )


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hyperfocal predict",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="image files, folders or glob patterns"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="D", help="folder to write to")
    parser.add_argument(
        "--score",
        type=float,
        default=0.3,
        help="draw detections with at least this score (default 0.3)",
    )
    add_inference_options(parser)
    parser.add_argument("--batch-size", type=int, default=8, help="images per batch (default 8)")
    add_trust(parser)
    parser.add_argument("--device", default="auto", help="default: a GPU if there is one")
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="maximum pixels of an image file (default: the run's)",
    )
    args = parser.parse_args(words)
    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score {args.score:g}: scores are between 0 and 1")
    if args.max_pixels is not None and args.max_pixels < 1:
        raise ConfigError(f"--max-pixels {args.max_pixels}: at least 1")
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size {args.batch_size}: at least 1")
    check_max_detections(args)
    check_folder(args.out, "--out")
    return args


def find_images(words: list[str]) -> list[Path]:
    """Image files of the given files, folders (with subfolders) and glob patterns, in order.

    Raises:
        DataError: a word matches no image.
    """
    from hyperfocal.data.file_names import visible_files, warn_of_hidden
    from hyperfocal.data.formats.raw import Problems
    from hyperfocal.data.images import SUFFIXES

    found: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside, hidden = visible_files(path, SUFFIXES)
            problems = Problems(path)
            warn_of_hidden(hidden, problems)
            problems.report()
            matches = inside
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(name) for name in sorted(glob.glob(word, recursive=True))]
        if not matches:
            raise DataError(
                f"{word}: no images found (folders are searched for {sorted(SUFFIXES)})"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def as_results(
    path: Path, detections: Detections, categories: Sequence[Category]
) -> list[dict[str, Any]]:
    """COCO's results format, with the file's name instead of an image id.

    For `hyperfocal.evaluation.read_results`, which matches images by the end of their paths and
    categories by name.
    """
    from hyperfocal.evaluation.results import as_entries

    return [
        {
            "file_name": str(path),
            "category_id": categories[label].id,
            "category": categories[label].name,
            "bbox": box,
            "score": score,
        }
        for label, box, score in as_entries(detections, str(path))
    ]


def _picture_names(paths: list[Path]) -> dict[Path, str]:
    """An output name for each path: its stem, numbered if stems repeat.

    Stems that a file system may treat as equal (upper and lower case, Unicode forms) count as
    repeats.
    """
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        stem = path.stem
        while len(os.fsencode(stem)) > MOST_BYTES:
            stem = shortened(stem, len(stem) - 1)
        name, number = f"{stem}.jpg", 1
        while _alike(name) in taken:
            number += 1
            name = f"{stem}_{number}.jpg"
        taken.add(_alike(name))
        names[path] = name
    return names


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
