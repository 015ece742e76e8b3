"""Time `hyperfocal doctor` on a dataset of COCO's size, without decoding.

    python benchmarks/bench_doctor.py [--images 118000] [--boxes 860000]

The annotations are simulated; the image files are links to a few small PNGs of the stated sizes, so
that every header is opened and read.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from hyperfocal import cli

SIZES = ((640, 480), (480, 640), (640, 427), (500, 375))
CATEGORIES = 80


def simulate(root: Path, split: str, images: int, boxes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder = root / split
    folder.mkdir()
    pictures = []
    for n, size in enumerate(SIZES):
        noise = rng.integers(0, 255, (8, 8), dtype=np.uint8)
        picture = root / f"{split}_{n}.png"
        Image.fromarray(noise).resize(size).convert("1").save(picture)
        pictures.append(picture)
    entries = []
    for n in range(images):
        width, height = SIZES[n % len(SIZES)]
        name = f"{n:012d}.png"
        os.link(pictures[n % len(SIZES)], folder / name)
        entries.append({"id": n + 1, "file_name": name, "width": width, "height": height})
    owner = rng.integers(0, images, boxes)
    # Frequencies decrease as 1 / rank; box sizes as in COCO, with a median of about 60 pixels.
    share = 1 / np.arange(1, CATEGORIES + 1)
    labels = rng.choice(CATEGORIES, boxes, p=share / share.sum()) + 1
    sides = np.exp(rng.normal(4.1, 1.0, (boxes, 2)))
    rows = []
    for n in range(boxes):
        width, height = SIZES[owner[n] % len(SIZES)]
        w, h = min(sides[n, 0], width), min(sides[n, 1], height)
        x, y = rng.random() * (width - w), rng.random() * (height - h)
        box = [round(float(v), 2) for v in (x, y, w, h)]
        rows.append(
            {
                "id": n + 1,
                "image_id": int(owner[n]) + 1,
                "category_id": int(labels[n]),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )
    categories = [{"id": k + 1, "name": f"category {k + 1}"} for k in range(CATEGORIES)]
    data = {"images": entries, "annotations": rows, "categories": categories}
    (root / f"{split}.json").write_text(json.dumps(data))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        simulate(root, "train", args.images, args.boxes, 0)
        simulate(root, "val", args.images // 24, args.boxes // 24, 1)
        print(f"simulated {args.images} images with {args.boxes} boxes", flush=True)
        start, busy = time.perf_counter(), time.process_time()
        cli.main(["doctor", name, "--decode", "none", "--html", str(root / "doctor.html")])
        busy = time.process_time() - busy
        print(f"{time.perf_counter() - start:.1f} s, {busy:.1f} s of processor time")


if __name__ == "__main__":
    main()
