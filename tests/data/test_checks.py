"""Every kind of faulty annotation, in COCO files."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from PIL import Image

from hyperfocal.data import read_annotations
from hyperfocal.types import Category, DataError, HyperfocalWarning


def read(coco, **options):
    return read_annotations(coco.write(), coco.images, **options)


def read_with_warnings(coco, **options):
    """The set, and the text of each warning without its file name."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read(coco, **options)
    assert {warning.category for warning in caught} <= {HyperfocalWarning}
    return found, [str(warning.message).removeprefix(f"{coco.file}: ") for warning in caught]


def one_warning(coco, pattern, **options):
    found, messages = read_with_warnings(coco, **options)
    assert len(messages) == 1, messages
    assert re.search(pattern, messages[0]), messages[0]
    return found


def error(coco, *patterns, **options):
    with pytest.raises(DataError) as caught:
        read(coco, **options)
    for pattern in patterns:
        assert re.search(pattern, str(caught.value)), str(caught.value)
    assert str(coco.file) in str(caught.value)


def boxes_of(annotations, image_id):
    return next(record for record in annotations.images if record.id == image_id)


# --------------------------------------------------------------------------- good data


def test_good_data_is_read_without_a_warning(coco):
    found, messages = read_with_warnings(coco)
    assert messages == []
    assert found.source == coco.file
    # By id, whatever the order in the file.
    assert found.categories == (Category(3, "ant"), Category(7, "cat"))
    first, empty, third = found.images
    assert (first.id, first.height, first.width) == (1, 80, 100)
    assert first.path == coco.images / "1.jpg"
    np.testing.assert_array_equal(first.boxes, [[10, 20, 40, 60], [0, 0, 100, 80]])
    np.testing.assert_array_equal(first.labels, [1, 0])
    np.testing.assert_array_equal(first.area, [900, 8000])  # given; the box's
    assert empty.boxes.shape == (0, 4)
    assert empty.labels.dtype == np.int64
    np.testing.assert_array_equal(third.boxes, [[50.5, 5.25, 60.5, 15.25], [5, 5, 65, 65]])
    np.testing.assert_array_equal(third.crowd, [False, True])
    counts = found.counts()
    assert counts.images == (1, 2)
    assert counts.instances == (1, 2)


def test_annotations_keep_their_order_within_an_image(coco):
    for x in range(50):
        coco.annotate(image_id=1 + x % 3, bbox=[x, 1, 2, 3])
    found = read(coco)
    for record in found.images:
        own = [a["bbox"][0] for a in coco.data["annotations"] if a["image_id"] == record.id]
        np.testing.assert_array_equal(record.boxes[:, 0], own)


def test_other_splits_get_the_labels_of_train(coco):
    train = read(coco).categories
    for renumbered in (False, True):
        coco.data["categories"] = [{"id": 3, "name": "ant"}, {"id": 7, "name": "cat"}]
        if renumbered:  # the name decides
            coco.data["categories"] = [{"id": 7, "name": "ant"}, {"id": 3, "name": "cat"}]
        found, messages = read_with_warnings(coco, categories=train)
        expected = [
            "2 categories with another id than in the training annotations, matched by name"
        ]
        assert [message.partition(" (first: ")[0] for message in messages] == expected * renumbered
        assert found.categories == train
        label = boxes_of(found, 3).labels[0]
        assert train[label].name == ("ant" if renumbered else "cat")


def test_a_split_without_a_category_of_train(coco):
    train = (Category(1, "zebra"), Category(3, "ant"), Category(7, "cat"))
    found = one_warning(coco, r"^1 category .*not listed here.*first: 'zebra'", categories=train)
    np.testing.assert_array_equal(boxes_of(found, 1).labels, [2, 1])


def test_boxes_of_a_category_that_train_lacks_are_left_out(coco):
    train = (Category(7, "cat"),)
    pattern = r"^2 boxes of category 'ant' \(id 3\) left out.*first: annotation id 2"
    found = one_warning(coco, pattern, categories=train)
    assert [len(record.boxes) for record in found.images] == [1, 0, 1]
    assert found.categories == train


def test_a_renamed_category_is_an_error(coco):
    train = (Category(3, "emmet"), Category(7, "cat"))
    error(coco, "category id 3 is called 'ant' here but 'emmet'", categories=train)


# --------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(
    "box",
    [
        [5, 5, 0, 10],
        [5, 5, 10, 0],
        [5, 5, -4, 10],
        [5, 5, 10, -1e-9],
    ],
)
def test_boxes_without_area_are_left_out(coco, box):
    coco.annotate(bbox=box)
    coco.annotate(bbox=box, image_id=2)
    kind = "inside out" if min(box) < 0 else "without area"
    found = one_warning(coco, rf"^2 boxes {kind}.*annotation id 5, image id 1")
    assert [len(record.boxes) for record in found.images] == [2, 0, 2]


@pytest.mark.parametrize(
    "box",
    [
        [float("nan"), 0, 1, 1],
        [0, 0, float("inf"), 1],
        [0, 10**400, 1, 1],
        [0, 0, 1],
        [],
        None,
        "box",
        ["a", "b", "c", "d"],
        [[1], 2, 3, 4],
        {"x": 1},
    ],
)
@pytest.mark.parametrize("check", ["none", "headers"])
def test_boxes_that_cannot_be_read_are_left_out(coco, box, check):
    coco.annotate(bbox=box)
    found = one_warning(coco, r"^1 box missing or not finite.*annotation id 5", check=check)
    assert [len(record.boxes) for record in found.images] == [2, 0, 2]


def test_boxes_outside_the_image_are_left_out_or_clipped(coco):
    outside = [[100, 0, 5, 5], [0, 80, 5, 5], [-10, 3, 10, 5], [3, -20, 5, 15]]
    for box in outside:
        coco.annotate(image_id=2, bbox=box)
    coco.annotate(image_id=2, bbox=[-20, -10, 200, 300], area=1e6)
    coco.annotate(image_id=2, bbox=[90, 70, 20, 5], area=40)
    found, messages = read_with_warnings(coco)
    assert len(messages) == 2
    assert re.search("^4 boxes outside the image, left out.*annotation id 5", messages[0])
    assert re.search("^2 boxes partly outside the image, clipped.*annotation id 9", messages[1])
    record = boxes_of(found, 2)
    np.testing.assert_array_equal(record.boxes, [[0, 0, 100, 80], [90, 70, 100, 75]])
    np.testing.assert_array_equal(record.area, [8000, 40])


def test_rounding_beyond_the_edge_is_left_alone(coco):
    coco.annotate(image_id=2, bbox=[-1, 10, 102, 70.9])
    found, messages = read_with_warnings(coco)
    assert messages == []
    np.testing.assert_allclose(boxes_of(found, 2).boxes, [[-1, 10, 101, 80.9]])


def test_no_check_takes_boxes_as_written(coco):
    coco.annotate(image_id=2, bbox=[-20, -10, 200, 300], area=0)
    coco.annotate(image_id=2, bbox=[500, 10, 0, 10])
    found, messages = read_with_warnings(coco, check="none")
    assert messages == []
    record = boxes_of(found, 2)
    np.testing.assert_array_equal(record.boxes, [[-20, -10, 180, 290], [500, 10, 500, 20]])
    np.testing.assert_array_equal(record.area, [0, 0])


def test_a_set_without_usable_boxes_is_an_error(coco):
    coco.data["annotations"] = [coco.data["annotations"][3]]  # a crowd
    error(coco, "all 1 usable boxes are marked crowd")
    coco.data["annotations"] = []
    error(coco, "no usable boxes")


# --------------------------------------------------------------------------- ids


def test_repeated_image_ids_are_an_error(coco):
    coco.data["images"][1]["id"] = 3
    error(coco, "image id 3 is used more than once")


def test_repeated_category_ids_are_an_error(coco):
    coco.data["categories"].append({"id": 7, "name": "dog"})
    error(coco, "category id 7 is used more than once")


def test_repeated_annotation_ids_are_harmless(coco):
    coco.annotate(id=1, image_id=2)
    coco.annotate(id=2, image_id=2)
    found = one_warning(coco, "^2 annotations repeat the id of another; all are kept.*id 1")
    assert [len(record.boxes) for record in found.images] == [2, 2, 2]


def test_missing_annotation_ids_are_harmless(coco):
    for annotation in coco.data["annotations"]:
        del annotation["id"]
    found, messages = read_with_warnings(coco)
    assert messages == []
    assert [len(record.boxes) for record in found.images] == [2, 0, 2]


def test_one_file_under_two_ids_and_one_name_for_two_categories(coco):
    coco.data["images"][1]["file_name"] = "1.jpg"
    coco.data["categories"].append({"id": 9, "name": "cat"})
    _, messages = read_with_warnings(coco)
    assert re.search(r"^1 file listed under several image ids \(first: 1.jpg\)", messages[0])
    assert re.search("^1 name used by several categories .*'cat'", messages[1])


def test_annotations_of_unknown_images_are_left_out(coco):
    coco.annotate(image_id=99)
    coco.annotate(image_id=-5)
    found = one_warning(coco, "^2 annotations of unknown images.*annotation id 5, image id 99")
    assert [len(record.boxes) for record in found.images] == [2, 0, 2]


def test_annotations_of_unknown_categories_are_an_error(coco):
    coco.annotate(category_id=80)
    coco.annotate(category_id=80)
    error(coco, r"category id 80 is used 2 times \(first: annotation id 5\)")


@pytest.mark.parametrize("value", [None, "1a", "", 1.5, True, 2**70, [1]])
@pytest.mark.parametrize(
    ("entry", "key"),
    [("images", "id"), ("categories", "id"), ("annotations", "image_id")],
)
def test_ids_must_be_whole_numbers(coco, entry, key, value):
    coco.data[entry][0][key] = value
    error(coco, rf"has {key} = .*must be a whole number")


# --------------------------------------------------------------------------- image files


def test_missing_files_are_collected(coco):
    for n in range(10, 40):
        coco.data["images"].append({"id": n, "file_name": f"{n}.jpg"})
    with pytest.raises(DataError) as caught:
        read(coco)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{coco.file}: 30 problems"
    assert len(lines) == 12
    assert re.search(
        r"image id 10: .*10\.jpg: no such image file; .*--data.bad-images skip", lines[1]
    )
    assert lines[-1].strip() == "... and 20 more"


def test_a_wrong_folder_is_reported_once(coco):
    with pytest.raises(DataError, match=r"none of the 3 image files exists") as caught:
        read_annotations(coco.write(), coco.images.parent)
    assert "--data.train.images" in str(caught.value)
    assert str(caught.value).count("\n") <= 1


def test_damaged_files_are_errors_or_skipped(coco):
    (coco.images / "2.jpg").unlink()
    whole = (coco.images / "3.jpg").read_bytes()
    (coco.images / "3.jpg").write_bytes(whole[: len(whole) // 2])
    error(coco, "2 problems", r"image id 2: .*no such", r"image id 3: .*damaged or unreadable")
    found = one_warning(coco, "^2 images left out as unusable .*image id 2: ", bad_images="skip")
    assert [record.id for record in found.images] == [1]


def test_nothing_left_after_skipping_is_an_error(coco):
    for n in (1, 2, 3):
        (coco.images / f"{n}.jpg").write_bytes(b"broken")
    error(coco, "3 problems", bad_images="skip")


def test_damage_inside_a_file_is_found_by_decoding(coco):
    path = coco.images / "1.png"
    noise = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    coco.data["images"][0]["file_name"] = "1.png"
    assert read(coco, check="headers")
    error(coco, r"image id 1: .*1\.png: damaged", check="decode")


def test_a_wrong_size_gives_way_to_the_files_own(coco):
    coco.data["images"][0] |= {"width": 50, "height": 40}
    coco.data["images"][1] |= {"width": 100, "height": 81}
    pattern = "^2 images with a wrong width or height.*image id 1, '1.jpg', 50x40 .* 100x80"
    found = one_warning(coco, pattern)
    assert [(record.width, record.height) for record in found.images] == [(100, 80)] * 3
    np.testing.assert_array_equal(found.images[0].boxes[1], [0, 0, 100, 80])  # kept


def test_no_size_in_the_file_is_no_trouble(coco):
    for image in coco.data["images"]:
        del image["width"]
    for check in ("none", "headers"):
        found, messages = read_with_warnings(coco, check=check)
        assert messages == []
        assert [(record.width, record.height) for record in found.images] == [(100, 80)] * 3


def test_no_check_opens_only_files_whose_size_is_missing(coco):
    del coco.data["images"][1]["width"]
    (coco.images / coco.data["images"][0]["file_name"]).write_bytes(b"broken")
    found, messages = read_with_warnings(coco, check="none")
    assert messages == []
    assert [(record.width, record.height) for record in found.images] == [(100, 80)] * 3
    (coco.images / coco.data["images"][1]["file_name"]).write_bytes(b"broken")
    with pytest.raises(DataError, match="not an image"):
        read_annotations(coco.write(), coco.images, check="none")


def test_long_ids_that_begin_alike_are_not_repeats(coco):
    for n, entry in enumerate(coco.data["annotations"]):
        entry["id"] = f"https://example.org/a/very/long/address/of/an/annotation/number/{n:04d}"
    assert read_with_warnings(coco)[1] == []


def test_exif_rotation_counts(coco):
    image = Image.open(coco.images / "1.jpg")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(coco.images / "1.jpg", exif=exif)
    coco.data["annotations"][1]["bbox"] = [0, 0, 80, 100]
    # Annotated as displayed: nothing to say.
    coco.data["images"][0] |= {"width": 80, "height": 100}
    found, messages = read_with_warnings(coco)
    assert messages == []
    assert (found.images[0].width, found.images[0].height) == (80, 100)
    # Annotated as stored: worth a look.
    coco.data["images"][0] |= {"width": 100, "height": 80}
    found = one_warning(coco, "^1 image annotated with the size from before EXIF rotation")
    assert (found.images[0].width, found.images[0].height) == (80, 100)


@pytest.mark.parametrize(
    "name",
    ["../1.jpg", "/etc/passwd", "a/../../1.jpg", "..\\1.jpg", "C:\\1.jpg", "\\\\host\\1.jpg"],
)
def test_file_names_that_leave_the_folder_are_refused(coco, name):
    coco.data["images"][0]["file_name"] = name
    for check in ("none", "headers"):
        error(coco, "image id 1: file_name .* leads out of the image folder", check=check)


@pytest.mark.parametrize("name", [None, 5, ""])
def test_images_without_a_file_name(coco, name):
    coco.data["images"][0]["file_name"] = name
    error(coco, "image id 1 has no file_name")


def test_a_file_name_in_a_subfolder(coco):
    (coco.images / "deep").mkdir()
    (coco.images / "1.jpg").rename(coco.images / "deep" / "1.jpg")
    coco.data["images"][0]["file_name"] = "deep/1.jpg"
    assert read(coco).images[0].path == coco.images / "deep" / "1.jpg"


def test_extreme_images(coco):
    Image.new("L", (1, 1)).save(coco.images / "1.jpg")
    Image.new("RGB", (20_000, 3)).save(coco.images / "3.jpg")
    for image, (width, height) in zip(
        coco.data["images"], [(1, 1), (100, 80), (20_000, 3)], strict=True
    ):
        image |= {"width": width, "height": height}
    coco.data["annotations"] = []
    coco.annotate(image_id=1, bbox=[0, 0, 1, 1])
    coco.annotate(image_id=3, bbox=[19_000, 0, 1000, 3])
    found, messages = read_with_warnings(coco, check="decode")
    assert messages == []
    assert [len(record.boxes) for record in found.images] == [1, 0, 1]


# --------------------------------------------------------------------------- whole files


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_missing_lists(coco, key):
    del coco.data[key]
    error(coco, f"no list '{key}'")


def test_empty_datasets_are_errors(coco):
    coco.data["categories"] = []
    coco.data["annotations"] = []
    error(coco, "no categories")
    coco.data["images"] = []
    error(coco, "no images")


def test_categories_need_names(coco):
    coco.data["categories"][0] = {"id": 7}
    error(coco, "category id 7 has no name")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[]", "a JSON list, such as detection results"),
        ("5", "expected a JSON object"),
        ('{"images": [', "not readable as JSON"),
        ("", "not readable as JSON"),
        ("\x00\xff", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ('{"images": [5], "annotations": [], "categories": []}', r"images\[0\] is not an object"),
    ],
)
def test_files_that_are_not_coco(tmp_path, text, what):
    file = tmp_path / "train.json"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=f"train.json: {what}"):
        read_annotations(file)


def test_a_file_with_a_byte_order_mark(coco):
    file = coco.write()
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert len(read_annotations(file, coco.images).images) == 3
