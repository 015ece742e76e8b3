"""`hyperfocal.train` and `Run`: a training from Python, on files and on objects in memory."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.api.conftest import Squares

import hyperfocal
from hyperfocal.types import ConfigError

NAMES = ["red", "orange"]


def weights(run: hyperfocal.Run) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.path / "model.safetensors")


@pytest.mark.filterwarnings("ignore:.*categories is 1, where:hyperfocal.types.HyperfocalWarning")
def test_a_dataset_trains_and_the_run_is_what_load_gives(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    run = hyperfocal.train(
        "demo",
        train=Squares(8),
        val=Squares(4),
        categories=NAMES,
        out=tmp_path / "run",
        settings=tiny | {"loss": "efl", "sampler": "rfs", "model.inference.score-threshold": 0.0},
        verbose=False,
    )
    assert run.path == tmp_path / "run"
    assert 0 <= run.metrics["AP"] <= 1
    assert run.history[-1]["kind"] == "evaluation"
    assert run.experiment.model.loss.kind == "efl"
    assert [c.name for c in run.categories] == NAMES
    assert {p.name for p in run.figures()} >= {"curves.png", "categories.png", "detections.png"}
    image = Squares(1)[0][0]
    loaded = hyperfocal.load(run.path)
    (mine,), (theirs,) = run.predict(image), loaded.predict([image])
    assert len(theirs) > 50
    assert torch.equal(mine.boxes, theirs.boxes)
    assert torch.equal(mine.scores, theirs.scores)
    assert torch.equal(mine.labels, theirs.labels)
    assert "AP50" in run._repr_html_()
    assert "AP 0." in repr(run)


def test_files_and_flags_give_the_run_of_the_command(
    synthetic: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    run = hyperfocal.train(
        "demo",
        train=(synthetic / "train.json", synthetic / "train"),
        val=(str(synthetic / "val.json"), str(synthetic / "val")),
        out=tmp_path / "python",
        settings=tiny,
        verbose=False,
    )
    flags = ["--train.iterations", "4", "--train.batch-size", "4", "--train.evaluations", "1"]
    flags += ["--train.precision", "fp32", "--train.ema-decay", "None", "--data.workers", "0"]
    flags += ["--model.backbone.name", "test_resnet", "--model.backbone.no-pretrained"]
    for name in ("train", "val"):
        flags += [f"--data.{name}.annotations", f"{synthetic}/{name}.json"]
        flags += [f"--data.{name}.images", f"{synthetic}/{name}"]
    command = ["train", "demo", *flags, "--out", str(tmp_path / "command")]
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from hyperfocal.cli import main; raise SystemExit(main())",
            *command,
        ],
        check=True,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    mine, theirs = weights(run), weights(hyperfocal.Run(tmp_path / "command"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)  # with as many threads


@pytest.mark.filterwarnings("ignore:.*train.iterations = 4:hyperfocal.types.HyperfocalWarning")
def test_a_random_dataset_resumes_to_the_same_weights(tmp_path: Path, tiny: dict[str, Any]) -> None:
    common: dict[str, Any] = {"train": Squares(8, flip=True), "categories": NAMES, "verbose": False}
    whole = hyperfocal.train("demo", out=tmp_path / "whole", settings=tiny, **common)
    half = tiny | {"train.iterations": 2, "train.schedule": "constant"}
    full = tiny | {"train.schedule": "constant"}
    hyperfocal.train("demo", out=tmp_path / "parts", settings=half, **common)
    torch.rand(3)  # the global generator doesn't matter
    parts = hyperfocal.train(
        "demo", out=tmp_path / "parts", settings=full | {"resume": True}, **common
    )
    constant = hyperfocal.train("demo", out=tmp_path / "constant", settings=full, **common)
    mine, theirs = weights(parts), weights(constant)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert any(not torch.equal(weights(whole)[name], theirs[name]) for name in theirs)


def test_workers_give_the_batches_of_the_main_process(tmp_path: Path, tiny: dict[str, Any]) -> None:
    runs = [
        hyperfocal.train(
            "demo",
            train=Squares(8, flip=True),
            categories=NAMES,
            out=tmp_path / str(workers),
            settings=tiny | {"data.workers": workers},
            verbose=False,
        )
        for workers in (0, 1)
    ]
    mine, theirs = map(weights, runs)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.lrr": 0.1}, r"did you mean --lr\?"),
        ({"loss": "eqfl_"}, "did you mean"),
        ({"train.iterations": "many"}, "many"),
        ({"train.lr": -1.0}, "lr = -1.0, but it must be > 0"),
        ({"--train.lr": 1}, "not the name of a flag"),
        ({"train.lr": object()}, "expected a number"),
    ],
)
def test_wrong_settings_are_one_error_before_anything_is_written(
    settings: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        hyperfocal.train(
            "demo", train=Squares(2), categories=NAMES, out=tmp_path / "run", settings=settings
        )
    assert not (tmp_path / "run").exists()
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_a_component_is_taken_by_its_config(tmp_path: Path, tiny: dict[str, Any]) -> None:
    from hyperfocal.losses import SigmoidFocalLoss

    run = hyperfocal.train(
        "demo",
        train=Squares(4),
        categories=NAMES,
        out=tmp_path / "run",
        settings=tiny | {"loss": SigmoidFocalLoss.Config(alpha=0.7), "train.iterations": 1},
        verbose=False,
    )
    assert run.experiment.model.loss == SigmoidFocalLoss.Config(alpha=0.7)


def test_nothing_global_is_left_changed(tmp_path: Path, tiny: dict[str, Any]) -> None:
    def state() -> tuple[Any, ...]:
        return (
            torch.random.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.are_deterministic_algorithms_enabled(),
            dict(os.environ),
            logging.getLogger("lightning_fabric").level,
        )

    before = state()
    hyperfocal.train(
        "demo",
        train=Squares(4),
        categories=NAMES,
        out=tmp_path / "run",
        settings=tiny | {"train.iterations": 1, "deterministic": True},
        verbose=False,
    )
    assert state() == before


def test_importing_is_quick_and_every_public_name_is_there() -> None:
    code = (
        "import sys, hyperfocal; heavy = {'torch', 'numpy', 'timm'} & set(sys.modules); "
        "assert not heavy, heavy; [getattr(hyperfocal, n) for n in hyperfocal.__all__]; "
        "assert set(hyperfocal.__all__) <= set(dir(hyperfocal))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert all(getattr(hyperfocal, name).__doc__ for name in hyperfocal.__all__)
