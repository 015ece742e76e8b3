"""LVIS evaluation at the size of its val split, with hyperfocal and the ``lvis`` package.

    python benchmarks/bench_lvis_eval.py [--images 20000] [--peer-images 300]

Both get the same simulated results: 300 detections per image, 1203 categories. The package does a
fixed amount of work for every image, category and area range, so its time per image is measured on
a smaller split; both sizes are printed, and the ratio is that of the times per image, with
hyperfocal's measured at the full size. Reading files is not timed.
"""

from __future__ import annotations

import argparse
import logging
import resource
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from hyperfocal.evaluation import LvisEvaluator
from hyperfocal.types import AnnotationSet, Category, Detections, Federated, ImageRecord

K = 1203


def simulate(n: int) -> tuple[AnnotationSet, dict[int, Detections]]:
    """12 boxes per image of about 5 categories; 200 detections near a box, 100 anywhere."""
    rng = np.random.default_rng(0)
    records, found, negative, partly = [], {}, {}, {}
    often = 1 / np.arange(1, K + 1)
    often /= often.sum()
    for i in range(1, n + 1):
        here = rng.choice(K, 5, p=often)
        labels = rng.choice(here, 12)
        boxes = rng.integers(0, 400, (12, 4)).astype(float)
        boxes[:, 2:] = boxes[:, :2] + np.exp(rng.uniform(1.5, 5.5, (12, 2))).round(2)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        path, crowd = Path(f"{i}.jpg"), np.zeros(12, bool)
        records.append(ImageRecord(i, path, 640, 640, boxes, labels, crowd, area))
        other = np.setdiff1d(rng.integers(0, K, 12), labels)
        negative[i] = frozenset(other.tolist())
        partly[i] = frozenset(labels[:1].tolist() if rng.random() < 0.3 else [])
        near = rng.integers(0, 12, 200)
        side = np.tile(boxes[near, 2:] - boxes[near, :2], 2)
        close = boxes[near] + rng.normal(0, 0.08, (200, 4)) * side
        away = rng.integers(0, 400, (100, 4)).astype(float)
        away[:, 2:] = away[:, :2] + rng.uniform(5, 200, (100, 2))
        every = np.concatenate([close, away])
        every = np.concatenate([every[:, :2], np.maximum(every[:, 2:], every[:, :2] + 1)], axis=1)
        label = np.concatenate([labels[near], rng.integers(0, K, 100)])
        found[i] = Detections(
            torch.from_numpy(every.round(2)),
            torch.from_numpy(rng.random(300).round(4)),
            torch.from_numpy(label),
        )
    categories = tuple(Category(c + 1, f"c{c}") for c in range(K))
    frequency = tuple("f" if c < 405 else "c" if c < 866 else "r" for c in range(K))
    federated = Federated(negative, partly, frequency)
    return AnnotationSet(Path("simulated"), categories, tuple(records), federated), found


def ours(annotations: AnnotationSet, found: dict[int, Detections]) -> tuple[float, dict]:
    start = time.perf_counter()
    evaluator = LvisEvaluator(annotations)
    evaluator.update(list(found.values()), list(found))
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("ours", total=len(annotations.images))
        metrics = evaluator.compute(lambda images: bar.advance(task, images))
    return time.perf_counter() - start, metrics


def theirs(annotations: AnnotationSet, found: dict[int, Detections]) -> tuple[float, dict]:
    from lvis import LVIS, LVISEval, LVISResults

    vars(np)["float"] = float  # the package is older than numpy 1.24
    lists = annotations.federated
    boxes, results, images = [], [], []
    for r in annotations.images:
        images.append(
            {
                "id": r.id,
                "neg_category_ids": [c + 1 for c in lists.negative[r.id]],
                "not_exhaustive_category_ids": [c + 1 for c in lists.not_exhaustive[r.id]],
            }
        )
        for box, label, area in zip(r.boxes, r.labels, r.area, strict=True):
            xywh = [*box[:2].tolist(), *(box[2:] - box[:2]).round(9).tolist()]
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": r.id,
                    "category_id": int(label) + 1,
                    "bbox": xywh,
                    "area": float(area),
                }
            )
    for i, d in found.items():
        xywh = np.concatenate([d.boxes[:, :2], (d.boxes[:, 2:] - d.boxes[:, :2])], axis=1).round(9)
        for box, score, label in zip(
            xywh.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True
        ):
            results.append({"image_id": i, "category_id": label + 1, "bbox": box, "score": score})
    api = LVIS.__new__(LVIS)
    api.logger = logging.getLogger("lvis")
    frequency = lists.frequency
    categories = [{"id": c + 1, "frequency": frequency[c]} for c in range(K)]
    api.dataset = {"images": images, "annotations": boxes, "categories": categories}
    api._create_index()
    start = time.perf_counter()
    evaluation = LVISEval(api, LVISResults(api, results), "bbox")
    evaluation.run()
    return time.perf_counter() - start, dict(evaluation.results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--peer-images", type=int, default=300)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    annotations, found = simulate(args.images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds, _ = ours(annotations, found)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"ours: {args.images} images, {seconds:.1f} s, {1e3 * seconds / args.images:.2f} ms/image"
    )
    print(f"peak memory {after:.2f} GiB, of which simulated data {before:.2f} GiB")
    del annotations, found
    small = simulate(args.peer_images)
    own_seconds, own = ours(*small)
    peer_seconds, peer = theirs(*small)
    each = 1e3 * peer_seconds / args.peer_images
    print(f"lvis: {args.peer_images} images, {peer_seconds:.1f} s, {each:.2f} ms/image")
    print(f"ours on those: {own_seconds:.2f} s")
    difference = max(abs(peer[name] - value) for name, value in own.items())
    print(f"largest difference {difference:.1e}")
    ratio = peer_seconds / args.peer_images / (seconds / args.images)
    print(f"ratio per image: {ratio:.1f}")


if __name__ == "__main__":
    main()
