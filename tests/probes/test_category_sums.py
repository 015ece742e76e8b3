"""What is gathered over the samples of a detector, against one prior after the other."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tests.components import LOSSES, OWN_LOGITS, build_loss, each_dense_detector, kind_of
from torch import nn

from hyperfocal.losses import (
    ClassificationLossConfig,
    EqualizedFocalLoss,
    QualityFocalLoss,
    QualityLoss,
    SigmoidFocalLoss,
    category_logits,
    num_logits,
)
from hyperfocal.models import FPN, Backbone, DenseHead, RetinaNet
from hyperfocal.models.samples import Samples
from hyperfocal.probes.category_sums import CategorySums, sum_by_category
from hyperfocal.probes.sample_logits import collect_logits
from hyperfocal.types import Batch, CategoryCounts, ConfigError, Target

K = 4
COUNTS = CategoryCounts(images=(50, 5, 2, 1), instances=(90, 7, 3, 1), num_images=60)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)
    first = Target(torch.tensor([[8.0, 8, 40, 40], [40, 20, 90, 60]]), torch.tensor([0, 2]))
    second = Target(torch.tensor([[4.0, 10, 60, 62]]), torch.tensor([2 - seed]))
    hw = torch.tensor([[64, 96]] * 2)
    return Batch(images, hw, hw, (first, second), (0, 1))


def detector(kind: type, loss: object) -> nn.Module:
    torch.manual_seed(0)
    return kind(
        backbone=Backbone.Config("resnet10t", pretrained=False),
        neck=FPN.Config(channels=64),
        head=DenseHead.Config(depth=1, norm="gn", prior_probability=0.1),
        loss=loss,
    ).build(K, COUNTS)


@each_dense_detector
@pytest.mark.parametrize("loss", [SigmoidFocalLoss.Config(), QualityFocalLoss.Config()])
def test_sums_equal_a_loop_over_the_training_loss(config, loss) -> None:
    model = detector(config, loss)
    batches = [batch(0), batch(1)]
    found = sum_by_category(model, batches, torch.device("cpu"))
    expected = CategorySums.zeros(K)
    for one in batches:
        samples = model.samples(one)
        gradient = samples.gradient(model.loss)
        for b in range(2):
            for label, scores, slopes in zip(
                samples.labels[b].tolist(), samples.logits[b].sigmoid(), gradient[b], strict=True
            ):
                if label < 0:
                    continue
                for j in range(K):
                    side = 0 if j == label else 1
                    expected.count[j, side] += 1
                    expected.score[j, side] += scores[j]
                    expected.gradient[j, side] += slopes[j].abs()
            assert (samples.labels[b] == -1).any() or config.kind != "retinanet"
    assert found.count[:, 0].tolist()[3] == 0
    for name in ("count", "score", "gradient"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-9
        )


@each_dense_detector
def test_samples_are_what_the_loss_is_trained_on(config) -> None:
    """The classification term of the training loss, from the samples."""
    for loss in LOSSES:
        model = detector(config, loss()).eval()
        one = batch(0)
        with torch.no_grad():
            term = model(one)["classification"]
        samples = model.samples(one)
        rows = samples.logits.flatten(0, 1)
        extra = {"quality": samples.iou.flatten()} if isinstance(model.loss, QualityLoss) else {}
        positives = (samples.labels >= 0) & (samples.labels < K)
        total = model.loss(rows, samples.labels.flatten(), float(positives.sum()), **extra)
        torch.testing.assert_close(total, term)


def test_a_pass_teaches_the_model_nothing() -> None:
    model = detector(RetinaNet.Config, EqualizedFocalLoss.Config())
    before = copy.deepcopy(model.state_dict())
    sum_by_category(model.train(), [batch(0)], torch.device("cpu"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("per_batch", [0, 100, 5_000, 10**9])
def test_collected_logits_are_the_samples_on_their_side(per_batch: int) -> None:
    model, batches = detector(RetinaNet.Config, SigmoidFocalLoss.Config()), [batch(0), batch(1)]
    found = collect_logits(model, batches, torch.device("cpu"), per_batch)
    positive, negative = [], []
    for one in batches:
        samples = model.samples(one)
        kept = samples.labels >= 0
        y = nn.functional.one_hot(samples.labels[kept], K + 1)[:, :K].bool()
        positive += samples.logits[kept][y].tolist()
        negative += (-samples.logits[kept][~y]).tolist()
    assert sorted(found.positive.tolist()) == sorted(positive)
    if per_batch == 10**9:
        assert sorted(found.negative.tolist()) == sorted(negative)
    else:
        assert 1.95 * per_batch <= len(found.negative) <= 2 * per_batch
        assert set(found.negative.tolist()) <= set(negative)
    if per_batch:  # drawn evenly: their mean is that of all, to five standard errors
        error = 5 * np.std(negative) / np.sqrt(len(found.negative))
        assert abs(found.negative.mean() - np.mean(negative)) < error + 1e-4


class Rows(nn.Module):
    """The samples of a detector whose classifier follows its loss, without the detector."""

    num_classes = K

    def __init__(self, config: type[ClassificationLossConfig]) -> None:
        super().__init__()
        self.loss = build_loss(config, K)
        generator = torch.Generator().manual_seed(3)
        logits = torch.randn(2, 12, num_logits(self.loss, K), generator=generator)
        self.rows = Samples(logits, torch.arange(24).view(2, 12) % (K + 2) - 1, torch.zeros(2, 12))

    def samples(self, batch: Batch) -> Samples:
        return self.rows


@pytest.mark.parametrize("config", OWN_LOGITS, ids=kind_of)
def test_losses_with_own_logits_are_summed_by_category(config) -> None:
    model = Rows(config)
    torch.manual_seed(0)
    found = sum_by_category(model, [batch(0)], torch.device("cpu"))
    torch.manual_seed(0)
    gradient = model.rows.gradient(model.loss)[..., list(category_logits(model.loss, K))]
    scores = model.loss.scores(model.rows.logits)
    for j in range(K):
        for side, chosen in enumerate((
            model.rows.labels == j,
            (model.rows.labels != j) & (model.rows.labels >= 0),
        )):  # fmt: skip
            assert found.count[j, side] == chosen.sum()
            assert found.score[j, side] == pytest.approx(float(scores[chosen][:, j].sum()))
            slopes = gradient[chosen][:, j].abs().sum()
            assert found.gradient[j, side] == pytest.approx(float(slopes))
    with pytest.raises(ConfigError, match="isn't one sigmoid per category"):
        collect_logits(model, [batch(0)], torch.device("cpu"), 10)


def test_ratios_and_margins_by_hand() -> None:
    two = torch.tensor([[2.0, 8.0], [0.0, 5.0]], dtype=torch.float64)
    sums = CategorySums(count=two, score=two / 4, gradient=torch.stack((two[0], two[0].flip(0))))
    assert sums.count_ratio()[0] == 0.25
    assert sums.count_ratio().isnan().tolist() == [False, True]
    assert sums.gradient_ratio().tolist() == [0.25, 4]
    sums.score[0] = torch.tensor([1.0, 0.8])
    assert sums.margin()[0] == pytest.approx(0.5 - 0.1)
    assert sums.margin().isnan().tolist() == [False, True]


def test_gradient_of_one_sample_by_hand() -> None:
    """At p = 1/2, with alpha 1/4 and gamma 2: 0.298287 a quarter, or three."""
    samples = Samples(torch.zeros(1, 2, 2), torch.tensor([[0, 2]]), torch.zeros(1, 2))
    slope = samples.gradient(SigmoidFocalLoss(0.25, 2.0))
    expected = 0.298287 * torch.tensor([[[-0.25, 0.75], [0.75, 0.75]]])
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=0)
