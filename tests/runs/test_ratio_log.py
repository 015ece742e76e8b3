"""ratios.jsonl: its content, and that a resumed run repeats no line."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from hyperfocal.losses import EqualizedFocalLoss, SigmoidFocalLoss
from hyperfocal.runs.json_files import read_lines
from hyperfocal.runs.ratio_log import POINTS, RatioLog, logged_steps


def trained(loss: EqualizedFocalLoss, log: RatioLog, steps: range) -> None:
    for step in steps:
        logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(step))
        loss(logits, torch.tensor([0, 1, 2, 3, 3] * 10))
        loss.step()
        log.after(step)


def test_a_line_is_the_state_of_the_loss(tmp_path: Path) -> None:
    loss = EqualizedFocalLoss(3)
    model = nn.ModuleDict({"loss": loss})
    trained(loss, RatioLog(tmp_path / "r.jsonl", model, 0, 10), range(1, 11))
    lines = read_lines(tmp_path / "r.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 11))
    for name in ("ratio", "pos_grad", "neg_grad"):
        torch.testing.assert_close(
            torch.tensor(lines[-1][name]), getattr(loss, name), rtol=1e-5, atol=0
        )


def test_a_resumed_run_repeats_no_line(tmp_path: Path) -> None:
    whole, loss = EqualizedFocalLoss(3), EqualizedFocalLoss(3)
    trained(whole, RatioLog(tmp_path / "whole", whole, 0, 8), range(1, 9))
    trained(loss, RatioLog(tmp_path / "cut", loss, 0, 8), range(1, 6))
    state = EqualizedFocalLoss(3)
    trained(state, RatioLog(tmp_path / "scratch", state, 0, 8), range(1, 4))  # as of step 3
    with (tmp_path / "cut").open("a") as file:
        file.write('{"step": 6, "ra')  # killed while it wrote
    trained(state, RatioLog(tmp_path / "cut", state, 3, 8), range(4, 9))
    assert (tmp_path / "cut").read_text() == (tmp_path / "whole").read_text()


def test_a_loss_without_ratios_has_no_file(tmp_path: Path) -> None:
    log = RatioLog(tmp_path / "r.jsonl", SigmoidFocalLoss(), 0, 10)
    log.after(1)
    assert not (tmp_path / "r.jsonl").exists()


def test_logged_steps_are_dense_at_first_and_few() -> None:
    steps = sorted(logged_steps(90_000))
    assert steps[:4] == [1, 2, 5, 10]
    assert steps[-1] == 90_000
    assert len(steps) < POINTS + 25
    assert logged_steps(3) == {1, 2, 3}
