"""Malicious annotations and images are refused with one clear line; nothing is executed."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from PIL import Image

from hyperfocal.data import read_annotations, read_image
from hyperfocal.data.images import read_header
from hyperfocal.types import DataError, HyperfocalWarning


def refused(what, annotations, images=None, **options):
    with pytest.raises(DataError) as caught:
        read_annotations(annotations, images, **options)
    message = str(caught.value)
    assert what in message
    assert len(message) < 1000
    return message


# --------------------------------------------------------------------------- links


@pytest.mark.parametrize("check", ["none", "headers"])
def test_links_out_of_the_image_folder_are_refused_unless_trusted(coco, tmp_path, check):
    secret = tmp_path / "secret.jpg"
    (coco.images / "1.jpg").rename(secret)
    (coco.images / "1.jpg").symlink_to(secret)
    message = refused("image id 1", coco.write(), coco.images, check=check)
    assert "is a link out of the image folder" in message
    assert "--data.follow-links" in message
    found = read_annotations(coco.write(), coco.images, check=check, follow_links=True)
    assert len(found.images) == 3


def test_linked_subfolders_too(coco, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (coco.images / "1.jpg").rename(elsewhere / "1.jpg")
    (coco.images / "sub").symlink_to(elsewhere)
    coco.data["images"][0]["file_name"] = "sub/1.jpg"
    refused("is a link out of the image folder", coco.write(), coco.images)


def test_a_stale_name_with_many_parts_hides_no_link(tmp_path):
    secret, root = tmp_path / "secret.png", tmp_path / "set"
    root.mkdir()
    Image.new("RGB", (40, 30)).save(secret)
    (root / "evil.png").symlink_to(secret)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for name in ("evil.png", "a/b/c/d/e/f/g/h/x.png", ""):
        (root / "evil.xml").write_text(
            f"<annotation><filename>{name}</filename><object><name>a</name>{box}</object>"
            "</annotation>"
        )
        refused("is a link out of the image folder", root)


def test_links_within_the_folder_and_a_linked_folder_are_fine(coco, tmp_path):
    (coco.images / "real").mkdir()
    (coco.images / "1.jpg").rename(coco.images / "real" / "1.jpg")
    (coco.images / "1.jpg").symlink_to("real/1.jpg")
    (tmp_path / "images").symlink_to(coco.images)
    assert len(read_annotations(coco.write(), tmp_path / "images").images) == 3


def test_doctor_leaves_linked_images_unopened(coco, tmp_path):
    from hyperfocal.data import Split
    from hyperfocal.inspection.reading import check_split, read_split

    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (coco.images / "1.jpg").unlink()
    (coco.images / "1.jpg").symlink_to(tmp_path / "secret.jpg")
    raw, findings = read_split("train", Split(coco.write(), coco.images))
    assert raw is not None
    examined, findings = check_split("train", raw)
    assert [(f.severity, f.kind, f.cases[0].image_id) for f in findings] == [("error", "links", 1)]
    assert [image.id for image in examined.raw.images] == [2, 3]


# --------------------------------------------------------------------------- JSON


def deep(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("id", 10**400),
        ("image_id", "x" * 100_000),
        ("category_id", [[["x"] * 1000] * 50]),
    ],
)
def test_messages_stay_short_whatever_they_quote(coco, entry, value):
    coco.annotate(
        **{entry: value, "bbox": [1, 1, 5, 5]} | ({"image_id": []} if entry == "id" else {})
    )
    with pytest.raises(DataError) as caught:
        read_annotations(coco.write(), coco.images)
    assert len(str(caught.value)) < 400


def test_deep_json(coco):
    coco.file.write_text('{"images": ' + deep(100_000) + "}")
    refused("nested too deeply", coco.file, coco.images)


def test_sizes_beyond_reason_are_taken_for_none(coco):
    coco.data["images"][0] |= {"width": 10**30, "height": 2**31}
    found = read_annotations(coco.write(), coco.images, check="none")
    assert (found.images[0].height, found.images[0].width) == (80, 100)


@pytest.mark.parametrize("name", [["cat"], {"a": 1}, None, [], ""])
def test_names_must_be_text(coco, name):
    coco.data["categories"][0]["name"] = name
    refused("has no name", coco.write(), coco.images)


# --------------------------------------------------------------------------- XML and YAML


ENTITIES = """<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">{}]><annotation>&j;</annotation>""".format(
    "".join(
        f'<!ENTITY {new} "{f"&{old};" * 10}">'
        for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'


@pytest.mark.parametrize("text", [ENTITIES, OUTSIDE])
def test_entities_in_xml(tmp_path, text):
    (tmp_path / "1.xml").write_text(text)
    message = refused("1.xml: not readable as XML", tmp_path)
    assert "Entit" in message
    assert "root:" not in message


def test_deep_and_huge_xml(tmp_path):
    (tmp_path / "1.xml").write_text("<a>" * 50_000 + "</a>" * 50_000)
    with pytest.raises(DataError):
        read_annotations(tmp_path)
    with (tmp_path / "1.xml").open("w") as file:
        file.truncate(1 << 34)  # sparse
    refused("too large for one image's annotations", tmp_path)


def test_names_in_yaml_must_be_text(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [[a, b]]\ntrain: images\n")
    refused("a name must be text", tmp_path)
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: {a: b}\n")
    refused("train must be text", tmp_path)


# --------------------------------------------------------------------------- images


def png(width, height, *chunks):
    """A PNG whose header states a size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*c) for c in chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (
            png(60_000, 60_000, (b"IDAT", zlib.compress(bytes(1000)))),
            "more than 178,956,970 pixels",
        ),
        (
            png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27))), (b"IDAT", b"")),
            "damaged or unreadable",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n%%EOF", "not an image"),
    ],
)
def test_bombs_and_programs_in_images(tmp_path, data, what):
    file = tmp_path / "a.png"
    file.write_bytes(data)
    tracemalloc.start()
    for read in (read_header, read_image):
        with pytest.raises(DataError, match=what):
            read(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 << 20


def test_postscript_is_not_run_whatever_its_name(tmp_path):
    for name in ("a.jpg", "a.eps"):
        Image.new("RGB", (9, 9)).save(tmp_path / "a.eps")
        (tmp_path / "a.eps").rename(tmp_path / name)
        with pytest.raises(DataError, match="not an image"):
            read_image(tmp_path / name)


# --------------------------------------------------------------------------- found by fuzzing


def test_names_too_long_for_a_file(coco, tmp_path):
    name = "x" * 5000
    coco.data["images"][0]["file_name"] = name
    for images in (coco.images, None):
        refused("image id 1", coco.write(), images, bad_images="error")
    folder = tmp_path / "xml"
    folder.mkdir()
    (folder / "9.xml").write_text(
        f"<a><filename>{name}</filename><object><name>cat</name></object></a>"
    )
    with pytest.raises(DataError, match=r"image id 1: .*too long"):
        read_annotations(folder, coco.images)
    (tmp_path / "data.yaml").write_text(f"names: [a]\ntrain: {name}\n")
    with pytest.raises(DataError, match="the image folder does not exist"):
        read_annotations(tmp_path / "data.yaml")


@pytest.mark.parametrize("check", ["none", "headers"])
def test_coordinates_that_float32_has_no_room_for(coco, check):
    coco.annotate(bbox=[1, 1, 1e308, 1e308])
    with pytest.warns(HyperfocalWarning, match="1 box missing or not finite"):
        found = read_annotations(coco.write(), coco.images, check=check)
    assert [len(record.boxes) for record in found.images] == [2, 0, 2]
