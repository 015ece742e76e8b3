"""Damaged files are used or refused with one message; benchmarks/fuzz.py tries many more."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hyperfocal.data import read_annotations, read_image
from hyperfocal.data.formats.yaml_files import load_yaml
from hyperfocal.data.images import read_header
from hyperfocal.evaluation.results import read_results
from hyperfocal.files import load_json
from hyperfocal.types import HyperfocalError, HyperfocalWarning

# Files are overwritten by every example, so one folder a test will do.
some = settings(
    max_examples=150,
    deadline=20_000,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1.jpg", "../1.jpg", "/etc/passwd", "nan", "\x00", 2**63, 10**400, 1e308])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def used_or_refused(use):
    """Call it; it may only raise a `HyperfocalError` with a bounded message."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", HyperfocalWarning)
        # Pillow tells of damaged files twice: by warning and by exception.
        warnings.filterwarnings("ignore", module="PIL")
        message = "used"
        found = None
        try:
            found = use()
        except HyperfocalError as error:
            message = str(error)
    assert 0 < len(message) < 6000
    assert len(message.splitlines()) <= 12
    return found


def sound(found):
    if found is not None:
        for record in found.images:
            assert np.isfinite(record.boxes).all()
            assert (record.labels >= 0).all()
            assert (record.labels < len(found.categories)).all()
            assert len(record.boxes) == len(record.labels) == len(record.crowd) == len(record.area)


@settings(some, max_examples=300)
@given(
    data=st.data(),
    check=st.sampled_from(["none", "headers"]),
    bad_images=st.sampled_from(["error", "skip"]),
)
def test_coco(coco, data, check, bad_images):
    file = coco.write()
    tree = json.loads(file.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(["images", "annotations", "categories", None]))
        if part is None:
            tree[data.draw(st.sampled_from(["images", "annotations", "categories"]))] = data.draw(
                JSON
            )
            break
        entry = data.draw(st.sampled_from(tree[part]))
        if not isinstance(entry, dict) or not entry:
            continue
        key = data.draw(
            st.sampled_from([*sorted(entry), "neg_category_ids", "coco_url", "iscrowd"])
        )
        if data.draw(st.booleans()):
            entry[key] = data.draw(JSON)
        else:
            entry.pop(key, None)
    other = file.with_name("fuzzed.json")
    other.write_text(json.dumps(tree))
    sound(
        used_or_refused(
            lambda: read_annotations(other, coco.images, check=check, bad_images=bad_images)
        )
    )


@some
@given(
    line=st.lists(
        st.integers(-3, 99).map(str)
        | st.floats().map(str)
        | st.text(max_size=4)
        | st.sampled_from(["0", "0.5", "1e400", "9" * 30, "nan", "٣"]),
        max_size=8,
    )
)
def test_yolo_labels(coco, line):
    labels = coco.images.parent / "labels"
    labels.mkdir(exist_ok=True)
    (labels / "classes.txt").write_text("cat\n")
    (labels / "1.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (labels / "2.txt").write_bytes(" ".join(line).encode("utf-8", "surrogatepass"))
    sound(used_or_refused(lambda: read_annotations(labels, coco.images)))


@some
@given(
    text=st.binary(max_size=40) | st.text(max_size=40).map(lambda t: t.encode("utf-8", "replace"))
)
def test_yolo_yaml(coco, text):
    file = coco.images.parent / "data.yaml"
    file.write_bytes(b"names: [cat]\ntrain: images\n" + text)
    sound(used_or_refused(lambda: read_annotations(file)))
    file.write_bytes(text)
    used_or_refused(lambda: load_yaml(file))


@some
@given(
    tag=st.sampled_from(["filename", "width", "name", "xmin", "ymax", "difficult"]),
    value=st.text(max_size=12) | st.floats().map(str) | st.integers().map(str),
    cut=st.integers(0, 400),
)
def test_voc(coco, tag, value, cut):
    values = {"filename": "1.jpg", "width": "100", "name": "cat", "xmin": "5", "ymax": "60"}
    values |= {"difficult": "0", tag: value}
    text = (
        "<annotation><filename>{filename}</filename><size><width>{width}</width><height>80</height>"
        "</size><object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        "<xmin>{xmin}</xmin><ymin>5</ymin><xmax>90</xmax><ymax>{ymax}</ymax></bndbox></object>"
        "</annotation>"
    ).format(**values)
    folder = coco.images.parent / "xml"
    folder.mkdir(exist_ok=True)
    data = text.encode("utf-8", "replace")
    (folder / "1.xml").write_bytes(data if cut > 200 else data[:-cut])
    sound(used_or_refused(lambda: read_annotations(folder, coco.images)))


def encoded(format, mode):
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, format)
    return data.getvalue()


IMAGES = [
    encoded(*pair)
    for pair in (
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("WEBP", "RGB"),
        ("TIFF", "RGB"),
        ("PPM", "RGB"),
    )
]


@settings(some, max_examples=500)
@given(
    data=st.sampled_from(IMAGES),
    place=st.floats(0, 0.999),
    change=st.binary(max_size=6),
    remove=st.integers(0, 40),
    cut=st.booleans(),
)
def test_images(tmp_path, data, place, change, remove, cut):
    start = int(place * len(data))
    changed = data[:start] + change + (b"" if cut else data[start + remove :])
    file = tmp_path / "a.img"
    file.write_bytes(changed)
    used_or_refused(lambda: read_header(file))
    image = used_or_refused(lambda: read_image(file))
    if image is not None:
        assert image.shape[0] == 3
        assert image.numel() > 0


@some
@given(tree=JSON)
def test_results(coco, tree):
    annotations = read_annotations(coco.write(), coco.images, check="none")
    file = coco.file.with_name("results.json")
    file.write_text(json.dumps([tree]))
    used_or_refused(lambda: read_results(file, annotations))


@some
@given(data=st.binary(max_size=60) | st.text('[]{}",:0eE+-. ', max_size=60).map(str.encode))
def test_json(tmp_path, data):
    file = tmp_path / "a.json"
    file.write_bytes(data)
    used_or_refused(lambda: load_json(file))


@pytest.mark.parametrize("levels", [10, 900, 1100, 100_000])
def test_nesting_of_any_depth(coco, levels):
    coco.data["annotations"].append("DEEP")
    deep = "[" * levels + "]" * levels
    file = coco.write()
    for entry in (
        f'{{"id": {deep}, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]}}',
        f'{{"id": 9, "image_id": {deep}, "category_id": 7, "bbox": [1, 2, 3, 4]}}',
        f'{{"id": 9, "image_id": 1, "category_id": 7, "bbox": {deep}}}',
    ):
        other = file.with_name("deep.json")
        other.write_text(file.read_text().replace('"DEEP"', entry))
        sound(used_or_refused(lambda other=other: read_annotations(other, coco.images)))
