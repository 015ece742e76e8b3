"""Feed mutated annotation files and images to the readers, and check how they fail.

    python benchmarks/fuzz.py [--annotations 10000] [--images 2000] [--seed 0]

Every file must be used (with counted warnings) or refused with one clear message, a
`HyperfocalError`. Any other exception, a file that takes longer than 20 seconds, a message of many
lines, or unbounded memory is a failure; failures are printed with their seed, and the exit status
is 1. A crash of the interpreter is visible by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import faulthandler
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from hyperfocal.data import Split, load_sample, read_annotations, read_image
from hyperfocal.data.images import read_header
from hyperfocal.experiment import Experiment
from hyperfocal.inspection import advise, examine, print_report
from hyperfocal.inspection.page import page
from hyperfocal.recipes import load_recipe
from hyperfocal.types import HyperfocalError, HyperfocalWarning

SECONDS = 20
MAX_LINES = 13
DOCTORED = 0.1
"""Fraction of annotation files that `hyperfocal doctor` checks too."""

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, -0.0, 1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), "", " ", "a", "1", "nan", "\0", "../x",
    "/etc/passwd",
    "C:\\x", "\ud800", "\u202e", "\n", "x" * 5000, [], [[]], [1, 2], [1, 2, 3, 4, 5], {}, {"a": 1},
    [None] * 4, ["1", "2", "3", "4"], [[1], [2], [3], [4]], "<a>", "&a;", "%s%n", "{0}", "🦊" * 20,
)  # fmt: skip


class Hang(BaseException):
    """A file took too long."""


# --------------------------------------------------------------------------- mutation


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, insert or overwrite bytes, a few times."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 6))):
        if not out:
            break
        a, b = sorted((rng.randrange(len(out)), rng.randrange(len(out))))
        b = min(b, a + rng.choice((1, 4, 64, 100_000)))
        kind = rng.randrange(6)
        if kind == 0:
            out[a] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[a:b]
        elif kind == 2:
            out[a:a] = out[a:b]
        elif kind == 3:
            out[a:a] = rng.randbytes(rng.randint(1, 12))
        elif kind == 4:
            out[a:b] = rng.choice((b"\0", b"\xff", b"9", b"-", b"[", b'"')) * (b - a)
        else:
            del out[a:]
    return bytes(out)


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """Replace, remove, duplicate or nest a few values anywhere in a JSON tree."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places: list[tuple[Any, Any]] = []
        todo = [tree]
        while todo:
            node = todo.pop()
            keys = node if isinstance(node, dict) else range(len(node))
            for key in keys:
                places.append((node, key))
                if isinstance(node[key], dict | list):
                    todo.append(node[key])
        if not places:
            break
        node, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind <= 1:
            node[key] = copy.deepcopy(rng.choice(ODD))
        elif kind == 2:
            del node[key]
        elif kind == 3 and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        else:
            node[key] = [node[key]]
    return tree


def mutate_words(text: str, rng: random.Random) -> str:
    """Replace, remove or duplicate a few words."""
    words = text.split(" ")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        n = rng.randrange(len(words))
        odd = rng.choice(ODD)
        words[n : n + 1] = rng.choice(([str(odd)], [], [words[n]] * 2, [words[n] + "\n"]))
        if not words:
            break
    return " ".join(words)


# --------------------------------------------------------------------------- the four formats


class Sets:
    """A small valid dataset in each format, to mutate."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"
        self.images.mkdir()
        rng = np.random.default_rng(0)
        for n in (1, 2, 3):
            pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.images / f"{n}.png")
        self.coco: dict[str, Any] = {
            "info": {"year": 2017},
            "images": [
                {"id": n, "file_name": f"{n}.png", "width": 30, "height": 20} for n in (1, 2, 3)
            ],
            "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog", "frequency": "r"}],
            "annotations": [
                {
                    "id": n,
                    "image_id": 1 + n % 3,
                    "category_id": (2, 5)[n % 2],
                    "bbox": [1 + n, 2, 9.5, 8],
                    "area": 70,
                    "iscrowd": int(n == 4),
                }
                for n in range(5)
            ],
        }
        self.lvis = copy.deepcopy(self.coco)
        for n, image in enumerate(self.lvis["images"]):
            image |= {"neg_category_ids": [2][:n], "not_exhaustive_category_ids": [5][: n % 2]}
            image["coco_url"] = f"http://x/images/{image.pop('file_name')}"
        for category in self.lvis["categories"]:
            category["frequency"] = "r"

    def annotate_coco(self, rng: random.Random, tree: dict[str, Any]) -> tuple[Path, Path]:
        file = self.root / "a.json"
        if rng.random() < 0.7:
            text = json.dumps(mutate_tree(tree, rng)).encode("utf-8")
        else:
            text = mutate_bytes(json.dumps(tree).encode(), rng)
        file.write_bytes(text)
        return file, self.root if tree is self.lvis else self.images

    def annotate_yolo(self, rng: random.Random) -> tuple[Path, Path | None]:
        folder = self.root / "labels"
        folder.mkdir(exist_ok=True)
        yaml = "path: .\ntrain: images\nval: images\nnames: {0: cat, 1: dog}\n"
        labels = {n: f"{n % 2} 0.5 0.5 0.2 0.{n}\n1 0.2 0.2 0.1 0.1\n" for n in (1, 2, 3)}
        for n, text in labels.items():
            (folder / f"{n}.txt").write_text(text)
        names = self.root / "data.yaml"
        names.write_text(yaml)
        target = rng.choice((names, folder / "2.txt", folder / "2.txt"))
        text = target.read_text()
        changed = mutate_words(text, rng).encode("utf-8", "surrogatepass")
        target.write_bytes(changed if rng.random() < 0.6 else mutate_bytes(text.encode(), rng))
        return names, None

    def annotate_voc(self, rng: random.Random) -> tuple[Path, Path]:
        folder = self.root / "xml"
        folder.mkdir(exist_ok=True)
        for n in (1, 2, 3):
            text = (
                f"<annotation> <filename> {n}.png </filename> <size> <width> 30 </width> <height>"
                f" 20 </height> </size> <object> <name> cat </name> <difficult> 0 </difficult>"
                f" <bndbox> <xmin> 2 </xmin> <ymin> {n} </ymin> <xmax> 20 </xmax> <ymax> 15 </ymax>"
                " </bndbox> </object> </annotation>"
            )
            data = text.encode()
            if n == 2:
                changed = mutate_words(text, rng).encode("utf-8", "surrogatepass")
                data = changed if rng.random() < 0.6 else mutate_bytes(data, rng)
            (folder / f"{n}.xml").write_bytes(data)
        return folder, self.images


# --------------------------------------------------------------------------- the run


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """`Hang` after `SECONDS`."""

    def stop(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def attempt(what: str, use: Callable[[], None], seen: Counter[str]) -> str | None:
    """Use a file and count the outcome; returns the reason if it is a failure."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with limited():
                use()
            outcome = "used"
        except HyperfocalError as error:
            lines = str(error).splitlines()
            if len(lines) > MAX_LINES or len(str(error)) > 6000:
                return f"a message of {len(lines)} lines and {len(str(error))} characters"
            outcome = "refused"
        except Hang:
            return f"longer than {SECONDS} s"
        except BaseException:  # any other error is a failure
            return traceback.format_exc()
    own = [w for w in caught if issubclass(w.category, HyperfocalWarning)]
    foreign = [w for w in caught if not issubclass(w.category, HyperfocalWarning)]
    if outcome == "used" and own:
        outcome = "used with warnings"
    seen[f"{what}: {outcome}"] += 1
    for warning in foreign:
        place = f"{warning.category.__name__} of {Path(warning.filename).name}"
        seen[f"{what}: foreign warning, {place}"] += 1
    return None


def see_doctor(file: Path, images: Path | None, recipe: Experiment) -> None:
    """Check a file as both splits; all problems must become findings."""
    split = Split(file, images)
    data = dataclasses.replace(recipe.data, train=split, val=split)
    found = examine(dataclasses.replace(recipe, data=data), "none")
    advice = advise(found, recipe, "demo")
    page(found, advice)
    json.dumps([finding.as_json() for finding in found.findings])
    print_report(found, advice, Console(file=io.StringIO()))


def fuzz_annotations(count: int, seed: int, seen: Counter[str]) -> list[str]:
    failures = []
    recipe = load_recipe("demo")
    with tempfile.TemporaryDirectory() as name:
        sets = Sets(Path(name))
        formats: dict[str, Callable[[random.Random], tuple[Path, Path | None]]] = {
            "COCO": lambda rng: sets.annotate_coco(rng, sets.coco),
            "LVIS": lambda rng: sets.annotate_coco(rng, sets.lvis),
            "YOLO": sets.annotate_yolo,
            "VOC": sets.annotate_voc,
        }
        for n in range(count):
            kind = list(formats)[n % len(formats)]
            rng = random.Random(f"{seed} {n}")
            file, images = formats[kind](rng)
            check = rng.choice(("none", "headers", "headers"))
            bad = rng.choice(("error", "skip"))

            def use(file=file, images=images, check=check, bad=bad) -> None:
                found = read_annotations(file, images, check=check, bad_images=bad)
                found.counts()
                for record in found.images:
                    assert np.isfinite(record.boxes).all()
                    assert ((record.labels >= 0) & (record.labels < len(found.categories))).all()
                    if check == "headers":
                        load_sample(record)

            problem = attempt(kind, use, seen)
            if problem:
                failures.append(f"annotations {n} ({kind}, check {check}): {problem}")
            if rng.random() < DOCTORED:
                problem = attempt("doctor", partial(see_doctor, file, images, recipe), seen)
                if problem:
                    failures.append(f"annotations {n} ({kind}), doctor: {problem}")
    return failures


def fuzz_images(count: int, seed: int, seen: Counter[str]) -> list[str]:
    failures = []
    rng0 = np.random.default_rng(0)
    pixels = np.kron(rng0.integers(0, 255, (6, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    picture = Image.fromarray(pixels)
    sources: dict[str, bytes] = {}
    for ending, mode, options in (
        ("jpg", "RGB", {}),
        ("jpg", "CMYK", {"progressive": True}),
        ("jpg", "L", {"exif": Image.Exif().tobytes() or b""}),
        ("png", "RGBA", {}),
        ("png", "P", {}),
        ("png", "I;16", {}),
        ("gif", "P", {}),
        ("bmp", "RGB", {}),
        ("webp", "RGB", {}),
        ("tif", "RGB", {"compression": "tiff_lzw"}),
        ("tif", "L", {}),
        ("ppm", "RGB", {}),
        ("jp2", "RGB", {}),
    ):
        data = io.BytesIO()
        image = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
        formats = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}
        image.save(data, formats.get(ending, ending.upper()), **options)
        sources[f"{ending} {mode} {len(sources)}"] = data.getvalue()
    with tempfile.TemporaryDirectory() as name:
        for n in range(count):
            kind = list(sources)[n % len(sources)]
            rng = random.Random(f"{seed} image {n}")
            file = Path(name) / f"a.{kind.split()[0]}"
            file.write_bytes(mutate_bytes(sources[kind], rng))

            def use(file=file) -> None:
                read_header(file)
                image = read_image(file)
                assert image.shape[0] == 3
                assert image.numel() < 3 * 200_000_000

            problem = attempt("image", use, seen)
            if problem:
                failures.append(f"image {n} ({kind}): {problem}")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    faulthandler.enable()
    seen: Counter[str] = Counter()
    start = time.perf_counter()
    failures = fuzz_annotations(args.annotations, args.seed, seen)
    failures += fuzz_images(args.images, args.seed, seen)
    for what, number in sorted(seen.items()):
        print(f"{what:60} {number:6}")
    for failure in failures[:20]:
        print(f"FAILED {failure}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{args.annotations} annotation files, {args.images} images: {len(failures)} failures, "
        f"{time.perf_counter() - start:.0f} s, peak memory {peak:.1f} GiB"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
