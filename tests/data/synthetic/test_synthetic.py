"""The synthetic dataset: its counts, its geometry, and that it is the same every time."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperfocal.data.synthetic import (
    SyntheticConfig,
    categories,
    is_generated,
    make_dataset,
    train_image_counts,
    val_image_counts,
)
from hyperfocal.types import ConfigError, DataError

SMALL = SyntheticConfig(num_categories=6, imbalance=10, train_images=40, val_images=12, seed=3)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "set"
    make_dataset(out, SMALL)
    return out


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def images_and_boxes(file: Path, num_categories: int) -> tuple[np.ndarray, np.ndarray]:
    annotations = json.loads(file.read_text())["annotations"]
    boxes = np.bincount([a["category_id"] for a in annotations], minlength=num_categories + 1)[1:]
    pairs = {(a["category_id"], a["image_id"]) for a in annotations}
    images = np.bincount([c for c, _ in pairs], minlength=num_categories + 1)[1:]
    return images, boxes


@pytest.mark.parametrize(
    "settings",
    [
        SyntheticConfig(),
        SyntheticConfig(num_categories=60, imbalance=500, train_images=3000),
        SyntheticConfig(num_categories=2, imbalance=7.5, train_images=30, objects_per_image=1),
        SyntheticConfig(num_categories=5, imbalance=1),
    ],
)
def test_training_counts_fall_geometrically_over_the_whole_imbalance(settings):
    counts = train_image_counts(settings)
    assert counts[0] >= settings.imbalance * counts[-1]
    assert (np.diff(counts) <= 0).all()
    assert counts[-1] >= 1
    assert counts[0] <= settings.train_images
    # Geometric: the logarithm falls by equal steps, but for rounding up to whole images.
    k = settings.num_categories
    ideal = counts[-1] * settings.imbalance ** (1 - np.arange(k) / (k - 1))
    assert (counts - ideal >= -1e-6).all()
    assert (counts - ideal < 1).all()
    assert len(set(val_image_counts(settings).tolist())) == 1


def test_sixty_categories_have_sixty_names():
    names = [c.name for c in categories(SyntheticConfig(num_categories=60))]
    assert len(set(names)) == 60


def test_the_default_is_long_tailed_as_promised():
    settings = SyntheticConfig()
    counts = train_image_counts(settings)
    assert settings.num_categories >= 20
    assert counts[0] / counts[-1] >= 100
    # All three of LVIS's groups are there.
    assert (counts <= 10).any()
    assert ((counts > 10) & (counts <= 100)).any()
    assert (counts > 100).any()
    assert val_image_counts(settings).min() >= 20


def test_the_files_hold_the_counts_that_were_promised(synthetic):
    train_images, train_boxes = images_and_boxes(synthetic / "train.json", 6)
    assert train_images.tolist() == train_image_counts(SMALL).tolist()
    assert train_boxes[0] >= SMALL.imbalance * train_boxes[-1]
    val_images, _ = images_and_boxes(synthetic / "val.json", 6)
    assert val_images.tolist() == val_image_counts(SMALL).tolist()


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_folder_is_a_sound_coco_data_set(synthetic, split):
    data = json.loads((synthetic / f"{split}.json").read_text())
    assert {c["name"] for c in data["categories"]} == {c.name for c in categories(SMALL)}
    assert len({a["id"] for a in data["annotations"]}) == len(data["annotations"])
    for image in data["images"]:
        with Image.open(synthetic / split / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"])
            assert file.mode == "RGB"
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert x >= -0.01
        assert y >= -0.01
        assert x + w <= SMALL.image_size + 0.02
        assert y + h <= SMALL.image_size + 0.02
        assert 0 < annotation["area"] <= w * h + 0.1


def test_the_same_settings_give_the_same_files(synthetic, tmp_path):
    make_dataset(tmp_path / "again", SMALL)
    assert fingerprint(tmp_path / "again") == fingerprint(synthetic)


def test_another_seed_gives_other_images(synthetic, tmp_path):
    make_dataset(tmp_path / "other", replace(SMALL, seed=4))
    ours, other = fingerprint(synthetic), fingerprint(tmp_path / "other")
    assert ours.keys() == other.keys()
    assert not any(ours[name] == other[name] for name in ours)


def test_a_folder_is_recognised_by_its_settings_and_replaced(tmp_path):
    out = tmp_path / "deep" / "set"
    tiny = replace(SMALL, train_images=30, val_images=2)
    assert not is_generated(out, tiny)
    make_dataset(out, tiny)
    assert is_generated(out, tiny)
    assert not is_generated(out, replace(tiny, seed=9))
    make_dataset(out, replace(tiny, train_images=31))
    assert len(list((out / "train").iterdir())) == 31
    assert [p.name for p in out.parent.iterdir()] == ["set"]


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"has no synthetic\.json"):
        make_dataset(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperfocal.data.synthetic.dataset.draw_image", fail)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(tmp_path / "set", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_for_the_imbalance_says_how_many_it_takes():
    settings = SyntheticConfig(num_categories=60, imbalance=500, train_images=100)
    with pytest.raises(ConfigError, match="it takes") as caught:
        train_image_counts(settings)
    needed = int(str(caught.value).split("it takes ")[1].split(",")[0])
    assert train_image_counts(replace(settings, train_images=needed))[-1] >= 1
    with pytest.raises(ConfigError):
        train_image_counts(replace(settings, train_images=needed - 1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_categories", 1),
        ("num_categories", 61),
        ("imbalance", 0.5),
        ("imbalance", float("nan")),
        ("train_images", 0),
        ("image_size", 8),
        ("objects_per_image", 0.0),
        ("min_object", 0.9),
        ("seed", -1),
    ],
)
def test_impossible_settings_are_named(field, value):
    with pytest.raises(ConfigError, match=field):
        SyntheticConfig(**{field: value})
