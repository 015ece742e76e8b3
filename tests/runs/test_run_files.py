"""Files of a run: written completely or not at all, and read back unchanged."""

from __future__ import annotations

import errno
import json
import math
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from hyperfocal.engine.evaluate import Evaluation
from hyperfocal.runs.categories import TrainedCategories
from hyperfocal.runs.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import LineFile, read_json, read_lines, write_lines
from hyperfocal.runs.metrics_log import MetricsLog
from hyperfocal.runs.weights import load_weights, save_weights
from hyperfocal.runs.writing import write_whole
from hyperfocal.types import Category, CategoryCounts, ConfigError, HyperfocalError


def test_write_whole_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_checkpoint_round_trip_and_damage(tmp_path: Path) -> None:
    file = tmp_path / "c" / "last.pt"
    save_checkpoint(file, {"step": 3, "weights": {"w": torch.arange(3)}})
    state = load_checkpoint(file)
    assert state["step"] == 3
    assert torch.equal(state["weights"]["w"], torch.arange(3))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(HyperfocalError, match="damaged checkpoint"):
        load_checkpoint(file)
    with pytest.raises(HyperfocalError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")


class _Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('executed')",))


def test_checkpoint_never_executes_code(tmp_path: Path) -> None:
    file = tmp_path / "evil.pt"
    torch.save({"step": _Trap()}, file, pickle_module=pickle)
    with pytest.raises(HyperfocalError, match="damaged"):
        load_checkpoint(file)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_weights(file, nn.Linear(2, 3))
    copy = nn.Linear(2, 3)
    load_weights(file, copy)
    with pytest.raises(ConfigError, match=r"2 tensors differ, such as weight, bias"):
        load_weights(file, nn.Linear(2, 4))
    file.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="not readable as safetensors"):
        load_weights(file, copy)


def test_categories_round_trip(tmp_path: Path) -> None:
    counts = CategoryCounts(images=(5, 1), instances=(9, 1), num_images=6)
    for made in (
        TrainedCategories((Category(7, "cat"), Category(90, "dog")), counts),
        TrainedCategories((Category(1, "a"),)),
    ):
        text = json.dumps(made.as_json())
        assert TrainedCategories.from_json(json.loads(text), tmp_path) == made
    with pytest.raises(ConfigError, match="not a run's categories"):
        TrainedCategories.from_json({"categories": [{}]}, tmp_path)


def test_resumed_log_repeats_no_step(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    log = MetricsLog(run, 0, 0)
    for step in (20, 40, 60):
        log.write("step", step, {"loss": math.nan if step == 20 else 1.0})
    log.write("evaluation", 40, {"AP": 0.5})
    log.close()
    with run.log.open("a") as file:
        file.write('{"kind": "st')  # cut short by a crash
    log = MetricsLog(run, 40, 20)
    log.write("step", 60, {"loss": 2.0})
    log.close()
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert [(x["kind"], x["step"]) for x in lines] == [("step", 20), ("step", 40), ("step", 60)]
    assert lines[0]["loss"] is None
    assert lines[-1]["loss"] == 2.0


def test_read_json_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.json: no such file"):
        read_json(tmp_path / "x.json")


def test_a_log_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "a.jsonl")
    file.append({"step": 1})
    (tmp_path / "a.jsonl").rename(tmp_path / "old.jsonl")
    file.append({"step": 2})
    assert read_lines(tmp_path / "a.jsonl") == [{"step": 2}]


@pytest.mark.parametrize(
    "broken", [b"[1]\n", b'"x"\n', b"\xff\xfe\n", b'{"kind": "st', b"[" * 99999 + b"\n"]
)
def test_lines_are_read_up_to_a_broken_one(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"kind": "step", "step": 1}\n' + broken + b'{"kind": "step", "step": 2}\n')
    assert read_lines(path) == [{"kind": "step", "step": 1}]


def test_lines_of_something_else_are_no_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    good = {"kind": "step", "step": 1}
    write_lines(run.log, [{"a": 1}, {"kind": []}, {"kind": "step"}, {"kind": "x", "step": 1}, good])
    MetricsLog(run, step=5, evaluated=5).close()
    assert read_lines(run.log) == [good]


def test_a_read_error_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"step": 1})
    checkpoints.save(2, {"step": 2})

    def stale(path: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", stale)
        with pytest.raises(HyperfocalError, match=r"00000002\.pt: can't be read \(Stale file"):
            checkpoints.load_newest()
    state = checkpoints.load_newest()
    assert state is not None
    assert state["step"] == 2


@pytest.mark.parametrize("state", [[1, 2], 7, torch.zeros(2)])
def test_a_checkpoint_without_a_state_is_damaged(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "1.pt")
    with pytest.raises(HyperfocalError, match="damaged checkpoint"):
        load_checkpoint(tmp_path / "1.pt")


def test_foreign_files_in_a_run_folder_are_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for data in ({}, [], {"step": 1, "metrics": 3, "categories": []}, {"step": 1, "metrics": {}}):
        run.metrics.write_text(json.dumps(data))
        with pytest.raises(ConfigError, match=r"metrics\.json: not a valid evaluation"):
            Evaluation.read(run, 1)
    run.categories.write_text('{"categories": [{"id": 1e999, "name": "a"}], "train_images": null}')
    with pytest.raises(ConfigError, match="not a run's categories"):
        run.read_categories()
    run.categories.unlink()
    run.categories.mkdir()
    with pytest.raises(ConfigError, match=r"categories\.json: not readable"):
        run.read_categories()


def test_clearing_takes_the_pictures_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for picture in run.pictures:
        picture.write_bytes(b"old")
    run.clear()
    assert not list(tmp_path.iterdir())


def test_weights_under_the_names_of_older_runs_load(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from hyperfocal.losses import EqualizedFocalLoss
    from hyperfocal.models import Backbone, RetinaNet
    from hyperfocal.runs.weights import load_weights

    config = RetinaNet.Config(
        backbone=Backbone.Config("test_resnet", pretrained=False),
        loss=EqualizedFocalLoss.Config(),
        divisor="ema",
    )
    model, other = config.build(3), config.build(3)
    old = {"criterion.loss.": "loss.", "criterion.divisors.": "loss_normalizer."}
    state = model.state_dict()
    for new, before in old.items():
        state = {name.replace(new, before): value for name, value in state.items()}
    assert not any(name.startswith("criterion.") for name in state)
    save_file({n: v.contiguous() for n, v in state.items()}, tmp_path / "old.safetensors")
    assert load_file(tmp_path / "old.safetensors").keys() == state.keys()
    load_weights(tmp_path / "old.safetensors", other)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
