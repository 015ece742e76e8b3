"""One α per category: each category's logit is trained with its own."""

from __future__ import annotations

import pytest
import torch
from tests.components import LOSSES, kind_of, losses_with

from hyperfocal import config as configs
from hyperfocal.config import override
from hyperfocal.losses import StreamableLoss
from hyperfocal.models.streamed import streamed_loss
from hyperfocal.recipes import load_recipe
from hyperfocal.types import ConfigError

ALPHAS = (0.1, 0.25, 0.5, 0.9)
TAKE_IT = [c for c in LOSSES if "alpha" in c.by_category]
EACH = pytest.mark.parametrize("loss", TAKE_IT, ids=kind_of)


def gradient(config: configs.Config, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    own = logits.clone().requires_grad_()
    config.build(len(ALPHAS))(own, labels, 3.0).backward()
    assert own.grad is not None
    return own.grad


def test_all_losses_with_an_alpha_take_one_a_category() -> None:
    with_alpha = [c for c in LOSSES if hasattr(c(), "alpha")]
    assert with_alpha == TAKE_IT
    assert len(with_alpha) >= 7


@EACH
@pytest.mark.parametrize("rows", [40, 20_000])  # the larger one takes the fused pass
def test_each_category_is_trained_with_its_own(loss: type[configs.Config], rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(rows, len(ALPHAS), generator=generator)
    labels = torch.randint(-1, len(ALPHAS) + 1, (rows,), generator=generator)
    found = gradient(loss(alpha=ALPHAS), logits, labels)
    for label, alpha in enumerate(ALPHAS):
        expected = gradient(loss(alpha=alpha), logits, labels)[:, label]
        torch.testing.assert_close(found[:, label], expected)


@pytest.mark.parametrize(
    "loss", [c for c in TAKE_IT if c in losses_with(StreamableLoss)], ids=kind_of
)
def test_a_few_categories_at_a_time_give_the_same(loss: type[configs.Config]) -> None:
    config = loss(alpha=ALPHAS)
    torch.manual_seed(0)
    maps, weight = torch.randn(2, 8, 5, 5), torch.randn(3 * 4, 8, 3, 3) / 8
    labels = torch.randint(-1, 5, (2, 75))
    whole = torch.nn.functional.conv2d(maps, weight, padding=1)
    logits = whole.permute(0, 2, 3, 1).reshape(-1, 4)
    expected = config.build(4)(logits, labels.flatten(), 2.0)
    found = streamed_loss([maps], weight, None, labels, config.build(4), 4, 2.0, logits_at_once=99)
    torch.testing.assert_close(found, expected)


@EACH
def test_it_is_no_weight_and_goes_along_to_another_dtype(loss: type[configs.Config]) -> None:
    module = loss(alpha=ALPHAS).build(4)
    assert "alpha" not in module.state_dict()
    module.load_state_dict(loss().build(4).state_dict())  # of a run with one for all
    assert module.double().alpha.dtype == torch.float64


@EACH
def test_it_survives_config_json_and_the_command_line(loss: type[configs.Config]) -> None:
    config = loss(alpha=ALPHAS)
    assert configs.load(loss, configs.dump(config)) == config
    for word, value in (("0.5", 0.5), ("cat=0.5,dog=0.2", "cat=0.5,dog=0.2"), ("a.json", "a.json")):
        flags = ["--loss", loss.kind, "--loss.alpha", word]
        assert override(load_recipe("demo"), flags, "test").model.loss.alpha == value
    flags = ["--loss", loss.kind, "--loss.alpha", *map(str, ALPHAS)]
    assert override(load_recipe("demo"), flags, "test").model.loss.alpha == ALPHAS


@EACH
@pytest.mark.parametrize("alpha", [1.5, -0.1, (0.5, 2.0), (), ""])
def test_impossible_ones_are_refused(loss: type[configs.Config], alpha: object) -> None:
    with pytest.raises(ConfigError, match=r"alpha = .*in \[0, 1\]"):
        loss(alpha=alpha)


@EACH
def test_names_and_other_numbers_of_categories_cannot_be_built(loss: type[configs.Config]) -> None:
    with pytest.raises(ConfigError, match="4 values for 3 categories"):
        loss(alpha=ALPHAS).build(3)
    with pytest.raises(ConfigError, match="names categories"):
        loss(alpha="cat=0.5").build(3)
