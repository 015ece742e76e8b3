"""Training on some of a file's categories."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from tests.data.conftest import CocoFolder

from hyperfocal import annotations_of, read_annotations
from hyperfocal.data import only_categories
from hyperfocal.data.samples import load_sample
from hyperfocal.types import AnnotationSet, ConfigError, DataError, Federated, OpenImagesLists


@pytest.fixture
def split(coco: CocoFolder) -> AnnotationSet:
    coco.annotate(category_id=3, bbox=[20, 30, 10, 10])
    return read_annotations(coco.write(), coco.images)


def boxes_of(split: AnnotationSet, name: str) -> list[tuple[int, list[float], bool]]:
    """Image id, box and crowd flag of every object of a category."""
    names = [category.name for category in split.categories]
    return [
        (record.id, box.tolist(), bool(crowd))
        for record in split.images
        for box, label, crowd in zip(record.boxes, record.labels, record.crowd, strict=True)
        if names[label] == name
    ]


def test_objects_of_the_chosen_categories_are_unchanged(split: AnnotationSet) -> None:
    for name, other in (("cat", "ant"), ("ant", "cat")):
        chosen = only_categories(split, [name])
        assert [category.name for category in chosen.categories] == [name]
        assert boxes_of(chosen, name) == boxes_of(split, name)
        assert boxes_of(chosen, other) == []
        assert [record.id for record in chosen.images] == [record.id for record in split.images]
        for record in chosen.images:
            lengths = {len(record.boxes), len(record.labels), len(record.crowd), len(record.area)}
            assert len(lengths) == 1


def test_labels_keep_the_order_of_the_file(split: AnnotationSet) -> None:
    names = [category.name for category in split.categories]
    chosen = only_categories(split, list(reversed(names)))
    assert chosen.categories == split.categories
    for new, old in zip(chosen.images, split.images, strict=True):
        np.testing.assert_array_equal(new.labels, old.labels)


def test_no_names_select_everything(split: AnnotationSet) -> None:
    assert only_categories(split, []) is split


def test_counts_are_those_of_the_category(split: AnnotationSet) -> None:
    names = [category.name for category in split.categories]
    for name in names:
        whole, chosen = split.counts(), only_categories(split, [name]).counts()
        label = names.index(name)
        assert chosen.instances == (whole.instances[label],)
        assert chosen.images == (whole.images[label],)
        assert chosen.num_images == whole.num_images


def test_an_unknown_name_is_an_error_that_proposes_the_closest(split: AnnotationSet) -> None:
    with pytest.raises(ConfigError, match=r"data\.categories.*'catt'.*did you mean 'cat'"):
        only_categories(split, ["catt"])
    with pytest.raises(ConfigError, match="listed 2 times"):
        only_categories(split, ["cat", "cat"])


def test_a_category_without_boxes_is_an_error(coco: CocoFolder) -> None:
    coco.data["categories"].append({"id": 9, "name": "bee"})
    split = read_annotations(coco.write(), coco.images)
    with pytest.raises(DataError, match="no boxes of the categories 'bee'"):
        only_categories(split, ["bee"])


def test_lists_of_verified_categories_follow(split: AnnotationSet) -> None:
    names = [category.name for category in split.categories]
    cat, ant = names.index("cat"), names.index("ant")
    federated = Federated(
        {1: frozenset({cat, ant}), 2: frozenset({ant})}, {3: frozenset({cat})}, ("r", "f")
    )
    lists = OpenImagesLists(
        {1: frozenset({cat})}, {2: frozenset({ant, cat})}, (frozenset(), frozenset({0}))
    )
    both = AnnotationSet(split.source, split.categories, split.images, federated, lists)
    chosen = only_categories(both, ["cat"])
    assert chosen.federated == Federated(
        {1: frozenset({0}), 2: frozenset()}, {3: frozenset({0})}, ("rf"[cat],)
    )
    assert chosen.openimages is not None
    assert chosen.openimages.positive == {1: frozenset({0})}
    assert chosen.openimages.negative == {2: frozenset({0})}


def test_a_torch_dataset_gives_the_chosen_boxes() -> None:
    image = np.zeros((32, 40, 3), np.uint8)
    target = {"boxes": [[4, 4, 20, 20], [6, 8, 30, 28], [0, 0, 9, 9]], "labels": [1, 0, 1]}
    split = annotations_of([(image, target)], ["disc", "bar"])
    chosen = only_categories(split, ["bar"])
    for record in (chosen.images[0], pickle.loads(pickle.dumps(chosen.images[0]))):
        sample = load_sample(record)
        assert sample.target.boxes.tolist() == [[4, 4, 20, 20], [0, 0, 9, 9]]
        torch.testing.assert_close(sample.target.labels, torch.zeros(2, dtype=torch.int64))
