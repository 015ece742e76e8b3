"""Which priors a detector trains on."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from tests import components
from tests.close import assert_near
from torch import Tensor, nn

from hyperfocal.losses import SigmoidCrossEntropyLoss, sigmoid_cross_entropy
from hyperfocal.models import ATSS, PAA, YOLOX, Detector, RetinaNet
from hyperfocal.models.mining import HardNegativeMining, MiningConfig, OnlineHardMining
from hyperfocal.types import Batch, ConfigError

MINED = [config for config in components.DENSE if config is not YOLOX.Config]
DETECTORS = pytest.mark.parametrize("kind", MINED, ids=components.kind_of)
MININGS = [
    OnlineHardMining(keep=16),
    OnlineHardMining(keep=16, one_to_three=True, divide_by="positives"),
    HardNegativeMining(),
]


def detector(
    kind: type, small: RetinaNet.Config, mining: MiningConfig | None, **changes: object
) -> Detector:
    config = kind(
        backbone=small.backbone, neck=dataclasses.replace(kind().neck, channels=32), mining=mining
    )
    head = dataclasses.replace(config.head, depth=1, norm="none")
    config = dataclasses.replace(
        config, head=head, loss=SigmoidCrossEntropyLoss.Config(), **changes
    )
    torch.manual_seed(0)
    model: Detector = config.build(4)
    return model.eval()  # running batch norms see the micro-batch; nothing else may


def seen(model: Detector, batch: Batch) -> Tensor:
    """The labels ``(B, A)`` that the classification loss receives."""

    class Spy(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor, normalizer: Tensor) -> Tensor:
            self.labels = labels
            return logits.sum()

    spy = Spy()
    model.criterion.loss = spy
    model(batch)
    return spy.labels.view(len(batch), -1)


@DETECTORS
@pytest.mark.parametrize("mining", MININGS)
def test_every_detector_trains_on_the_chosen_priors(
    kind: type, mining: MiningConfig, small_config: RetinaNet.Config, batch: Batch
) -> None:
    model = detector(kind, small_config, mining)
    terms = model(batch)
    assert terms.total.isfinite()
    terms.total.backward()
    for name, p in model.named_parameters():
        assert not p.requires_grad or p.grad is not None, name
    samples = detector(kind, small_config, None).samples(batch)  # the same weights, no mining
    mined = model.samples(batch).labels
    labels = seen(model, batch)
    assert torch.equal(mined, labels)
    assert (labels != samples.labels).any()
    assert ((labels == -1) | (labels == samples.labels)).all()
    positives = (labels >= 0) & (labels < 4)
    negatives = labels == 4
    assert terms.positives == positives.sum()
    if isinstance(mining, OnlineHardMining):
        assert ((labels >= 0).sum(dim=1) <= mining.keep).all()
        assert (labels >= 0).any()
    if not isinstance(mining, OnlineHardMining) or mining.one_to_three:
        there = (samples.labels == 4).sum(dim=1)
        wanted = torch.minimum(3 * positives.sum(dim=1), there)
        assert torch.equal(negatives.sum(dim=1), wanted)
    if isinstance(mining, HardNegativeMining):  # without suppression the hardest are kept
        losses = sigmoid_cross_entropy(samples.logits, samples.labels).sum(-1)
        for loss, kept, label in zip(losses, negatives, samples.labels, strict=True):
            hardest = loss[label == 4].sort(descending=True).values[: kept.sum()]
            torch.testing.assert_close(loss[kept].sort(descending=True).values, hardest)


def test_a_classifier_of_positives_has_no_negatives_to_mine() -> None:
    with pytest.raises(ConfigError, match="mining selects negatives of the classification"):
        YOLOX.Config(mining=HardNegativeMining())


@pytest.mark.parametrize("kind", [RetinaNet.Config, ATSS.Config, PAA.Config])
@pytest.mark.parametrize("mining", MININGS[1:])
def test_micro_batches_give_the_gradients_of_the_whole(
    kind: type, mining: MiningConfig, small_config: RetinaNet.Config, batch: Batch
) -> None:
    whole = detector(kind, small_config, mining)
    parts = copy.deepcopy(whole)
    whole(batch).total.backward()
    slices = (slice(0, 2), slice(2, 3))
    z = parts.divisors(batch, slices)
    for part in slices:
        parts.loss_terms(batch[part], z[part]).total.backward()
    gradients = dict(parts.named_parameters())
    for name, p in whole.named_parameters():
        if p.requires_grad:
            assert_near(gradients[name].grad, p.grad, of_largest=1e-5)


def test_the_loss_is_that_of_the_chosen_over_their_number(
    small_config: RetinaNet.Config, batch: Batch
) -> None:
    for divide_by in ("selected", "positives"):
        mining = OnlineHardMining(keep=24, divide_by=divide_by)
        model = detector(RetinaNet.Config, small_config, mining)
        terms, samples = model(batch), model.samples(batch)
        labels = seen(model, batch)
        total = sigmoid_cross_entropy(samples.logits, labels).sum()
        number = (labels >= 0).sum() if divide_by == "selected" else terms.positives
        torch.testing.assert_close(terms["classification"], total / number)


def test_no_mining_is_the_default_and_changes_nothing(
    small_config: RetinaNet.Config, batch: Batch
) -> None:
    model = detector(RetinaNet.Config, small_config, None)
    assert small_config.mining is None
    assert torch.equal(seen(model, batch), model.samples(batch).labels)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="keep"):
        OnlineHardMining(keep=0)
    with pytest.raises(ConfigError, match="nms_iou"):
        OnlineHardMining(nms_iou=1.5)
    with pytest.raises(ConfigError, match="negatives_per_positive"):
        HardNegativeMining(negatives_per_positive=0)
