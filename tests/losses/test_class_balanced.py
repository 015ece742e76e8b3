"""Weights from counts, the class-balanced focal loss, and EQL."""

from __future__ import annotations

import pytest
import torch

from hyperfocal.losses import (
    ClassBalancedFocalLoss,
    EqualizationLoss,
    class_balanced_weights,
    equalization_loss,
    inverse_frequency_weights,
    rare_categories,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from hyperfocal.types import CategoryCounts, ConfigError, DataError

COUNTS = CategoryCounts(
    images=(900, 100, 10, 1, 0), instances=(5000, 150, 12, 1, 0), num_images=1000
)


def test_effective_numbers():
    n = [10, 100, 1000]
    weights = class_balanced_weights(n, beta=0.999)
    effective = torch.tensor([9.9551, 95.2079, 632.3046])
    torch.testing.assert_close(weights / weights[0], effective[0] / effective, atol=0, rtol=1e-4)
    assert weights.sum().item() == pytest.approx(3)


def test_weights_between_uniform_and_inverse_frequency():
    n = [1000, 50, 3]
    torch.testing.assert_close(class_balanced_weights(n, beta=0), torch.ones(3))
    torch.testing.assert_close(inverse_frequency_weights(n, power=0), torch.ones(3))
    torch.testing.assert_close(
        class_balanced_weights(n, beta=1 - 1e-9), inverse_frequency_weights(n), atol=0, rtol=1e-5
    )
    inverse = inverse_frequency_weights(n)
    torch.testing.assert_close(inverse * torch.tensor(n), (inverse[0] * 1000).expand(3))


def test_a_category_without_samples_counts_as_one_with_one():
    for weights in (class_balanced_weights([0, 1, 7]), inverse_frequency_weights([0, 1, 7])):
        assert weights[0] == weights[1]
        assert torch.isfinite(weights).all()


def test_class_balanced_focal_weighs_rows_by_their_label(some_logits, some_labels):
    loss = ClassBalancedFocalLoss.Config(beta=0.99, gamma=1.0).build(5, COUNTS)
    weights = class_balanced_weights(COUNTS.instances, 0.99)
    elements = sigmoid_focal_loss(some_logits, some_labels, alpha=None, gamma=1.0).sum(-1)
    want = sum(
        row * (1 if label == 5 else weights[label])
        for row, label in zip(elements, some_labels, strict=True)
    )
    torch.testing.assert_close(loss(some_logits, some_labels, 2.0), want / 2)


def test_weights_go_with_softmax(some_logits, some_labels):
    labels = some_labels.clamp(max=4)
    weights = class_balanced_weights(COUNTS.instances)
    got = softmax_focal_loss(some_logits, labels, alpha=weights, gamma=0, reduction="sum")
    want = torch.nn.functional.cross_entropy(
        some_logits, labels, weight=weights.double(), ignore_index=-1, reduction="sum"
    )
    torch.testing.assert_close(got, want)


def test_rare_categories():
    assert rare_categories(COUNTS, 0.0011).tolist() == [False, False, False, True, True]
    assert rare_categories(COUNTS, 0.0).tolist() == [False] * 5


def test_eql_spares_rare_categories_from_other_objects(some_logits, some_labels, one_hot):
    rare = rare_categories(COUNTS, 0.05)
    assert rare.tolist() == [False, False, True, True, True]
    y = one_hot(some_labels, 5)
    is_object = ((some_labels >= 0) & (some_labels < 5))[:, None]
    factor = 1 - is_object.double() * rare * (1 - y)
    want = sigmoid_cross_entropy(some_logits, some_labels) * factor
    torch.testing.assert_close(equalization_loss(some_logits, some_labels, rare), want)
    module = EqualizationLoss.Config(threshold=0.05).build(5, COUNTS)
    torch.testing.assert_close(module(some_logits, some_labels, 3.0), want.sum() / 3)


def test_no_rare_categories_is_cross_entropy(some_logits, some_labels):
    assert equalization_loss(some_logits, some_labels, torch.zeros(5, dtype=torch.bool)).equal(
        sigmoid_cross_entropy(some_logits, some_labels)
    )


def test_bad_settings():
    with pytest.raises(ConfigError, match="beta = 1"):
        class_balanced_weights([1, 2], beta=1)
    with pytest.raises(ConfigError, match="counts"):
        class_balanced_weights([1, -2])
    with pytest.raises(ConfigError, match="power"):
        inverse_frequency_weights([1, 2], power=-1)
    with pytest.raises(ConfigError, match="threshold"):
        rare_categories(COUNTS, 2)
    with pytest.raises(ConfigError, match="rare"):
        equalization_loss(torch.zeros(1, 2), torch.zeros(1).long(), torch.zeros(2))
    for config in (ClassBalancedFocalLoss.Config(), EqualizationLoss.Config()):
        with pytest.raises(ConfigError, match="counts"):
            config.build(5)
        with pytest.raises(ConfigError, match="7"):
            config.build(7, COUNTS)


def test_class_balanced_focal_takes_the_labels_that_focal_loss_takes(some_logits, some_labels):
    loss = ClassBalancedFocalLoss(torch.tensor([0.5, 1.0, 1.5, 1.0, 1.0]))
    want = loss(some_logits, some_labels)
    for dtype in (torch.int8, torch.int16, torch.int32):
        torch.testing.assert_close(loss(some_logits, some_labels.to(dtype)), want)
    seen = some_labels.clamp(min=0)
    torch.testing.assert_close(loss(some_logits, seen.to(torch.uint8)), loss(some_logits, seen))


def test_class_balanced_focal_refuses_what_does_not_fit():
    loss = ClassBalancedFocalLoss(torch.tensor([0.5, 1.0, 1.5]))
    for columns in (2, 4):
        with pytest.raises(ConfigError, match="weights has 3 categories"):
            loss(torch.zeros(2, columns), torch.tensor([0, 1]))
    for bad in (torch.tensor([0.0, 1.0]), torch.tensor([True, False])):
        with pytest.raises(DataError, match="must be integers"):
            loss(torch.zeros(2, 3), bad)
    for label in (-2, 4):
        with pytest.raises(DataError, match=f"contain {label}"):
            loss(torch.zeros(2, 3), torch.tensor([0, label]))


def test_counts_of_another_length_are_named():
    uneven = CategoryCounts(images=(1, 2, 3), instances=(1, 2), num_images=9)
    with pytest.raises(ConfigError, match="images of 3 categories, but the model has 2"):
        ClassBalancedFocalLoss.Config().build(2, uneven)
    with pytest.raises(ConfigError, match="instances of 2 categories, but the model has 3"):
        ClassBalancedFocalLoss.Config().build(3, uneven)
