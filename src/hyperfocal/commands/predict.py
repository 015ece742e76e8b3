"""``hyperfocal predict RUN PATH... --out D``: annotated pictures and predictions.json."""

from __future__ import annotations

import argparse
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfocal.commands.trust import add_trust
from hyperfocal.files import check_folder
from hyperfocal.types import ConfigError, DataError

if TYPE_CHECKING:
    from hyperfocal.types import Category, Detections

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def run(words: list[str]) -> int:
    """Detect objects in every image found and write pictures and predictions.json."""
    parser = argparse.ArgumentParser(
        prog="hyperfocal predict",
        description="Detect objects in files, folders or globs of images.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders, globs")
    parser.add_argument("--out", type=Path, required=True, metavar="D", help="folder to write to")
    parser.add_argument(
        "--score", type=float, default=0.3, help="draw detections from this score on (default 0.3)"
    )
    parser.add_argument("--batch-size", type=int, default=8, help="images a pass (default 8)")
    add_trust(parser)
    parser.add_argument("--device", default="auto", help="default: a GPU where there is one")
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="pixels that an image may have (default: the run's)",
    )
    args = parser.parse_args(words)
    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score {args.score:g}: scores lie between 0 and 1")
    if args.max_pixels is not None and args.max_pixels < 1:
        raise ConfigError(f"--max-pixels {args.max_pixels}: at least 1")
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size {args.batch_size}: at least 1")
    check_folder(args.out, "--out")
    paths = find_images(args.paths)

    from rich.console import Console

    from hyperfocal.data import read_image
    from hyperfocal.data.images import limit_pixels
    from hyperfocal.engine.predict import load
    from hyperfocal.engine.progress import ProgressBar
    from hyperfocal.engine.run_folder import write_json
    from hyperfocal.figures import draw_detections

    console = Console()
    model = load(args.run, args.device, args.trust)
    limit_pixels(args.max_pixels or model.max_pixels)
    names = [category.name for category in model.categories]
    args.out.mkdir(parents=True, exist_ok=True)
    predictions, drawn = [], 0
    pictures = _picture_names(paths)
    unreadable = []
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
    write_json(args.out / "predictions.json", predictions)
    console.print(
        f"{len(paths) - len(unreadable)} images, {len(predictions)} detections in {args.out}: "
        f"predictions.json, and pictures of the {drawn} with a score of {args.score:g} or more",
        highlight=False,
        soft_wrap=True,
    )
    for message in unreadable:
        console.print(f"left out: {message}", highlight=False, soft_wrap=True)
    return 2 if unreadable else 0


def find_images(words: list[str]) -> list[Path]:
    """The image files that files, folders (searched deeply) and glob patterns name, in order.

    Raises:
        DataError: a word names nothing.
    """
    found: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = (p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES)
            matches = list(inside)
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(name) for name in sorted(glob.glob(word, recursive=True))]
        if not matches:
            raise DataError(f"{word}: no image there (folders are searched for {sorted(SUFFIXES)})")
        found.update(dict.fromkeys(matches))
    return list(found)


def as_results(
    path: Path, detections: Detections, categories: Sequence[Category]
) -> list[dict[str, Any]]:
    """COCO's results format, with the file's name in place of an image id."""
    rows = zip(
        detections.boxes.tolist(),
        detections.scores.tolist(),
        detections.labels.tolist(),
        strict=True,
    )
    return [
        {
            "file_name": str(path),
            "category_id": categories[label].id,
            "category": categories[label].name,
            "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
        }
        for (x1, y1, x2, y2), score, label in rows
    ]


def _picture_names(paths: list[Path]) -> dict[Path, str]:
    """A picture name for each path: its stem, numbered where stems repeat."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name, number = f"{path.stem}.jpg", 1
        while name in taken:
            number += 1
            name = f"{path.stem}_{number}.jpg"
        taken.add(name)
        names[path] = name
    return names
