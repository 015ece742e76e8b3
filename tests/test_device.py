"""bf16 where the processor has instructions for it, and the precision that a run records."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.engine.test_nonfinite import batch_with, tiny

import hyperfocal
from hyperfocal import device as precision
from hyperfocal.engine.nonfinite.causes import likely_causes
from hyperfocal.engine.train import train
from hyperfocal.experiment import TrainConfig
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import HyperfocalWarning


@pytest.fixture(params=[False, True])
def able(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(precision, "has_bf16", lambda device: request.param)
    return bool(request.param)


def test_auto_is_what_the_device_can_do(able: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precision.warn_if_emulated("auto", "cpu")
        precision.warn_if_emulated("fp32", "cpu")
    assert precision.resolve("auto", "cpu") == ("bf16" if able else "fp32")
    assert precision.resolve("fp32", "cpu") == "fp32"


def test_bf16_is_taken_at_its_word_and_warned_of_where_it_is_emulated(able: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        precision.warn_if_emulated("bf16", "cpu")
    assert precision.resolve("bf16", "cpu") == "bf16"
    assert [w.category for w in caught] == ([] if able else [HyperfocalWarning])
    assert able or "--train.precision auto" in str(caught[0].message)


def test_what_is_said_of_this_cpu_agrees_with_its_flags() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    if "avx2" not in flags:
        pytest.skip("not an x86 CPU under Linux with AVX2")
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        assert precision.has_bf16("cpu")
    elif not flags & {"avx512bw", "avx512vl", "avx_ne_convert"}:
        assert not precision.has_bf16(torch.device("cpu"))
    else:
        pytest.skip("between the two: torch widens bf16 in vectors")


def test_a_run_with_auto_computes_and_records_what_it_came_to(
    able: bool, synthetic: Path, tmp_path: Path
) -> None:
    said = io.StringIO()
    plan = tiny(synthetic, "--train.precision", "auto", "--out", str(tmp_path / "run"))
    train(plan, RunFolder(tmp_path / "run"), Console(file=said, width=200))
    used = "bf16" if able else "fp32"
    run = RunFolder(tmp_path / "run")
    assert json.loads(run.environment.read_text())["precision"] == used
    assert run.read_experiment().train.precision == "auto"  # another device may choose otherwise
    assert ("no bf16 instructions" in said.getvalue()) == (not able)
    assert hyperfocal.load(run.path, device="cpu").predictor.precision == used


def test_precision_is_a_cause_only_where_it_is_rounded(able: bool, synthetic: Path) -> None:
    model = tiny(synthetic).model.build(3)
    config = TrainConfig(iterations=100, lr=1e-4, precision="auto")
    causes = likely_causes(config, model, batch_with([0.0, 0.0, 9.0, 9.0]), 5, 100)
    assert any(cause.startswith("precision") for cause in causes) == able
