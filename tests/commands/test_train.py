"""`hyperfocal train --resume RUN`: a run is resumed with its own settings."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import hyperfocal
from hyperfocal.cli import main
from hyperfocal.config import override
from hyperfocal.data.splits import read_splits
from hyperfocal.engine.loop import TrainResult
from hyperfocal.engine.train import train
from hyperfocal.recipes import load_run
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import HyperfocalWarning

FLAGS = {
    "train.iterations": "2",
    "train.epochs": "None",
    "train.batch-size": "4",
    "train.schedule": "constant",
    "train.evaluations": "1",
    "train.precision": "fp32",
    "model.backbone.name": "test_resnet",
    "loss.gamma": "1.5",
    "data.workers": "0",
    "accelerator": "cpu",
}


@pytest.fixture(scope="module")
def half(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 steps that was started with ``--overwrite``."""
    out = tmp_path_factory.mktemp("runs") / "half"
    data = [
        f"--data.{split}.{what}={synthetic / name}"
        for split in ("train", "val")
        for what, name in (("annotations", f"{split}.json"), ("images", split))
    ]
    flags = [word for name, value in FLAGS.items() for word in (f"--{name}", value)]
    assert main(["train", "demo", *flags, *data, "--out", str(out), "--overwrite"]) == 0
    return out


@pytest.fixture
def copy(half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(half, tmp_path / "copy").name)


def steps(out: Path) -> list[int]:
    lines = [json.loads(line) for line in RunFolder(out).log.read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "evaluation"]


@pytest.mark.filterwarnings("ignore:.*train.iterations = 4:hyperfocal.types.HyperfocalWarning")
@pytest.mark.parametrize(
    "words",
    [
        ["--resume", "copy"],
        ["copy", "--resume"],
        ["copy", "--out", "../{}/copy/", "--resume"],
        ["copy", "--resume", "--out=copy"],
    ],
)
def test_a_run_is_resumed_from_its_folder(words: list[str], copy: Path, half: Path) -> None:
    words = [word.format(Path.cwd().name) for word in words]
    before = RunFolder(half).read_experiment()
    assert main(["train", *words, "--train.iterations", "4"]) == 0
    assert steps(copy) == [2, 4]
    after = RunFolder(copy).read_experiment()
    assert after.train.iterations == 4
    assert after.model == before.model  # not with model.weights, as a fine-tuning has them
    assert after.data == before.data
    assert not Path("runs").exists()


@pytest.mark.filterwarnings("ignore:.*train.iterations = 4:hyperfocal.types.HyperfocalWarning")
def test_it_is_the_run_that_the_original_command_resumes(copy: Path, half: Path) -> None:
    own = RunFolder(copy).read_experiment()
    data = {"train": own.data.train, "val": own.data.val}
    pairs = {name: (split.annotations, split.images) for name, split in data.items()}
    settings = {"resume": True, "train.iterations": 4}
    assert main(["train", "--resume", "copy", "--train.iterations", "4"]) == 0
    shutil.copytree(half, "other")
    run = hyperfocal.train("other", **pairs, out="other", settings=settings, verbose=False)
    assert run.experiment.model == own.model
    mine, theirs = (load_file(f"{name}/model.safetensors") for name in ("copy", "other"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert steps(Path("other")) == [2, 4]


def test_other_settings_are_checked_as_before(copy: Path) -> None:
    words = ["train", "--resume", "copy", "--train.iterations", "3", "--lr", "0.001"]
    with pytest.warns(HyperfocalWarning, match=r"resumed with settings that differ.*train\.lr"):
        train(override(load_run(copy), words[3:], "test"), RunFolder(copy), Console(quiet=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--resume", "absent"], "absent: no such run folder"),
        (["--resume", "."], ".: not a run folder"),
        (["--resume", "--lr", "1"], "the recipe comes first"),
        (["--resume", "copy", "--out", "elsewhere"], "in its own folder: leave --out away"),
        (["--resume", "copy", "--overwrite"], "give only one of them"),
        (["copy", "--out", "copy"], "would be mixed with the inputs"),
        (["copy", "--out", "elsewhere", "--resume"], "no train"),  # a fine-tuning, without data
    ],
)
def test_what_can_not_be_resumed(
    words: list[str], said: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["copy"]


def test_a_fine_tuning_of_a_run_is_resumed_in_its_folder(
    copy: Path, synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [
        f"--data.train.annotations={synthetic}/train.json",
        f"--data.train.images={synthetic}/train",
    ]
    words = ["train", "copy", *data, "--train.iterations", "1", "--train.evaluations", "1"]
    assert main(words) == 0
    assert main([*words, "--resume"]) == 0
    assert steps(copy) == [2]
    assert RunFolder(Path("runs/copy_finetuned")).read_experiment().model.weights == copy


def test_a_stopped_run_prints_the_command_that_resumes_it(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: object) -> TrainResult:
        splits = read_splits(RunFolder(copy).read_experiment().data)
        return TrainResult(RunFolder(copy), splits, None, "SIGTERM", is_main=True)

    monkeypatch.setattr("hyperfocal.engine.train.train", stopped)
    for words, printed in (
        (["train", "--resume", "copy"], "hyperfocal train --resume copy\n"),
        (["train", "copy", "--resume", "--out=copy"], "hyperfocal train copy --out=copy --resume"),
    ):
        monkeypatch.setattr(sys, "argv", ["hyperfocal", *words])
        assert main(words) == 0
        assert printed in capsys.readouterr().out
