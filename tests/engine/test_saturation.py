"""Saturated ratios: counted over the categories in training, with one warning."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch

from hyperfocal.engine.saturation import Saturation, SaturationWarning, saturation
from hyperfocal.losses import (
    EqualizationLossV2,
    EqualizationLossV2Focal,
    EqualizedFocalLoss,
    EqualizedQualityFocalLoss,
    SigmoidFocalLoss,
)
from hyperfocal.types import CategoryCounts, HyperfocalWarning

EVEN = CategoryCounts((5,) * 20, (5,) * 20, 100)


def efl(ratios: list[float]) -> EqualizedFocalLoss:
    loss = EqualizedFocalLoss(len(ratios))
    loss.ratio.copy_(torch.tensor(ratios))
    return loss


@pytest.mark.parametrize(
    ("below", "complete"), [(0, True), (1, True), (2, False), (20, False)], ids=str
)
def test_nearly_all_is_95_in_a_hundred(below: int, complete: bool) -> None:
    found = saturation(efl([0.5] * below + [1.0] * (20 - below)), EVEN)
    assert isinstance(found, Saturation)
    assert (found.balanced, found.trained) == (20 - below, 20)
    assert found.complete == complete


def test_categories_that_are_never_seen_do_not_count() -> None:
    counts = CategoryCounts((9, 0, 3, 0), (9, 0, 3, 0), 10)
    found = saturation(efl([1, 0, 1, 0]), counts)
    assert (found.balanced, found.trained) == (2, 2)
    assert found.complete


def test_eqlv2_is_balanced_where_its_negatives_weigh_one() -> None:
    """f(g) = 0.99 at g = μ + ln(99) / γ_e."""
    edge = 0.8 + math.log(99) / 12
    for loss in (EqualizationLossV2(3), EqualizationLossV2Focal(3)):
        assert loss.balanced().all()  # it starts at 100
        loss.ratio.copy_(torch.tensor([edge - 0.001, edge + 0.001, 1.0]))
        assert loss.balanced().tolist() == [False, True, False]


def test_it_says_what_the_loss_has_become_and_names_settings_that_it_has() -> None:
    said = {
        type(loss).__name__: str(saturation(loss, CategoryCounts((1, 1), (1, 1), 2)))
        for loss in (efl([1, 1]), EqualizedQualityFocalLoss(2), EqualizationLossV2(2))
    }
    assert "2 of 2 categories" in said["EqualizedFocalLoss"]
    assert "EqualizedFocalLoss equals plain focal loss" in said["EqualizedFocalLoss"]
    assert "model.loss.alpha" in said["EqualizedFocalLoss"]
    assert "plain quality focal loss" in said["EqualizedQualityFocalLoss"]
    assert "alpha" not in said["EqualizedQualityFocalLoss"]
    assert "plain cross-entropy" in said["EqualizationLossV2"]


def test_the_remedies_lower_the_ratio() -> None:
    """One object among background that the prior still holds down."""
    labels = torch.full((20_000,), 3)
    labels[0] = 0

    def ratio(prior: float = 0.001, **settings: float) -> float:
        loss = EqualizedFocalLoss(3, **settings)
        logits = torch.full((20_000, 3), math.log(prior / (1 - prior)))
        loss(logits, labels)
        return float(loss.pending_pos[0] / loss.pending_neg[0])

    assert ratio() > 1
    assert ratio(alpha=0.1) < ratio() / 2
    assert ratio(gamma=1.0) < ratio() / 2
    assert ratio(prior=0.01) < ratio() / 2


def test_other_losses_and_a_scale_of_zero_have_none() -> None:
    assert saturation(SigmoidFocalLoss(), EVEN) is None
    assert saturation(EqualizedFocalLoss(20, scale=0.0), EVEN) is None


def test_the_warning_comes_once_and_not_in_the_first_half() -> None:
    loss = efl([1.0] * 20)
    warning = SaturationWarning(loss, EVEN, total=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warning.at(4)
        loss.ratio.fill_(0.3)
        warning.at(5)
        loss.ratio.fill_(1.0)
    with pytest.warns(HyperfocalWarning, match=r"step 8: .* 20 of 20 categories"):
        warning.at(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warning.at(10)


def test_a_training_says_so_in_the_end(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hyperfocal.cli import main

    words = (
        "train demo --loss efl --model.head.prior-probability 0.001 --train.epochs None "
        "--train.iterations 4 "
        "--train.batch-size 8 --train.evaluations 1 --data.workers 0 --accelerator cpu "
        f"--data.train.annotations {synthetic}/train.json --data.train.images {synthetic}/train "
        f"--data.val.annotations {synthetic}/val.json --data.val.images {synthetic}/val "
        f"--out {tmp_path}/r"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always", HyperfocalWarning)  # as without pytest
        assert main(words.split()) == 0
    output = capsys.readouterr()
    assert "warning: step 4: the gradient ratio of" in output.err
    assert "equals plain focal loss" in " ".join(output.out.split())
    assert (tmp_path / "r" / "ratios.png").exists()
