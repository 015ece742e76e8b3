"""Which group a category falls into."""

import pytest

from hyperfocal.evaluation import FrequencyGroups
from hyperfocal.types import CategoryCounts, ConfigError


@pytest.mark.parametrize(
    ("images", "group"),
    [(0, None), (1, "r"), (10, "r"), (11, "c"), (100, "c"), (101, "f"), (10**6, "f")],
)
def test_the_default_groups_have_the_thresholds_of_lvis(images, group):
    assert FrequencyGroups().group_of(images) == group


def test_groups_go_by_images_not_by_boxes():
    counts = CategoryCounts(images=(5, 50), instances=(5000, 50), num_images=60)
    assert FrequencyGroups().assign(counts) == ("r", "c")


def test_any_number_of_groups():
    five = FrequencyGroups(names=("1", "2", "3", "4", "5"), bounds=(1, 2, 3, 4))
    assert [five.group_of(n) for n in (1, 2, 3, 4, 5)] == ["1", "2", "3", "4", "5"]
    assert FrequencyGroups(names=("all",), bounds=()).group_of(7) == "all"


@pytest.mark.parametrize(
    ("names", "bounds", "named"),
    [
        ((), (), "names"),
        (("r", "r"), (1,), "names"),
        (("r", "f"), (1, 2), "bounds"),
        (("r", "c", "f"), (10, 10), "bounds"),
        (("r", "f"), (0,), "bounds"),
        (("", "x"), (1,), "AP50 and AP75 are reserved"),
        (("t", "m", "h"), (1, 2), "AP50 and AP75 are reserved"),
        (("75", "x"), (1,), "AP50 and AP75 are reserved"),
        (("r", "50r"), (1,), "AP50 and AP75 are reserved"),
    ],
)
def test_impossible_groups_are_named(names, bounds, named):
    with pytest.raises(ConfigError, match=named):
        FrequencyGroups(names=names, bounds=bounds)
