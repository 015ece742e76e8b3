"""Open Images evaluation at the size of the challenge: reading the files, and the metric.

    python benchmarks/bench_openimages_eval.py [--images 20000] [--detections 300]

Simulates ground truth (8 boxes per image, 500 categories in a hierarchy of two levels, verified
labels) and results, writes the results as CSV, reads them back and evaluates.
"""

from __future__ import annotations

import argparse
import csv
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from hyperfocal.data.formats.openimages import read_boxes
from hyperfocal.evaluation import evaluate_openimages
from hyperfocal.progress import ProgressBar
from hyperfocal.types import Category, OpenImagesBoxes, OpenImagesTruth

K, BOXES = 500, 8


def simulate(images: int, detections: int) -> tuple[OpenImagesTruth, OpenImagesBoxes]:
    """Three of five detections near a box, with its category; the others anywhere."""
    rng = np.random.default_rng(0)
    names = tuple(f"{n:016x}" for n in range(images))
    often = 1 / np.arange(1, K + 1)
    here = rng.choice(K, (images, 4), p=often / often.sum())
    labels = np.take_along_axis(here, rng.integers(0, 4, (images, BOXES)), axis=1)
    low = rng.uniform(0, 0.7, (images, BOXES, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.03, 0.3, low.shape)], axis=2)
    near = rng.integers(0, BOXES, (images, detections))
    found = np.take_along_axis(boxes, near[..., None], axis=1)
    found = found + rng.normal(0, 0.01, found.shape)
    found[..., 2:] = np.maximum(found[..., 2:], found[..., :2] + 0.01)
    guess = np.take_along_axis(labels, near, axis=1)
    away = rng.random(guess.shape) < 0.4
    guess = np.where(away, rng.integers(0, K, guess.shape), guess)
    # The last tenth of the categories are parents of the others.
    ancestors = tuple(
        frozenset({K - 1 - n % (K // 10)} if n < K * 9 // 10 else ()) for n in range(K)
    )
    absent = rng.integers(0, K, (images, 6))
    truth = OpenImagesTruth(
        Path("simulated"),
        tuple(Category(n + 1, f"c{n}") for n in range(K)),
        OpenImagesBoxes(
            names,
            np.repeat(np.arange(images), BOXES),
            labels.ravel(),
            boxes.reshape(-1, 4),
            (rng.random(images * BOXES) < 0.06).astype(float),
        ),
        frozenset((names[i], int(c)) for i, some in enumerate(here) for c in some),
        frozenset((names[i], int(c)) for i, some in enumerate(absent) for c in some),
        ancestors,
    )
    scores = rng.random(images * detections).round(4)
    image = np.repeat(np.arange(images), detections)
    rows = found.reshape(-1, 4).round(5)
    return truth, OpenImagesBoxes(names, image, guess.ravel(), rows, scores)


def write(path: Path, found: OpenImagesBoxes) -> None:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["ImageID", "LabelName", "XMin", "YMin", "XMax", "YMax", "Score"])
        for n in range(0, len(found.labels), 100_000):
            part = slice(n, n + 100_000)
            out.writerows(
                (found.names[i], f"/m/{c}", *box, score)
                for i, c, box, score in zip(
                    found.image[part].tolist(),
                    found.labels[part].tolist(),
                    found.xyxy[part].tolist(),
                    found.value[part].tolist(),
                    strict=True,
                )
            )


def peak() -> str:
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--detections", type=int, default=300)
    args = parser.parse_args()
    truth, found = simulate(args.images, args.detections)
    total = len(found.labels)
    print(f"{args.images} images, {total} detections, {K} categories; simulated: {peak()}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.csv"
        write(path, found)
        print(f"results.csv: {path.stat().st_size / 2**20:.0f} MiB")
        del found
        start = time.perf_counter()
        found = read_boxes(path, {f"/m/{c}": c for c in range(K)}, "Score")
        print(f"read: {time.perf_counter() - start:.1f} s, {peak()}")
    for expand in (False, True):
        start = time.perf_counter()
        with ProgressBar(Console(stderr=True), "match", args.images, "images") as bar:
            result = evaluate_openimages(
                truth,
                found,
                expand_detections=expand,
                train_boxes=list(range(K)),
                advance=bar.advance,
            )
        seconds = time.perf_counter() - start
        what = "with" if expand else "without"
        print(f"{what} expanded detections: {seconds:.1f} s, {peak()}, {result.metrics}")


if __name__ == "__main__":
    main()
