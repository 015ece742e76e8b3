"""The CPU kernel: compiled, cached, and replaced where there is no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hyperfocal.losses.kernels import cpu

TOTAL = """
import torch, warnings
from hyperfocal.losses import sigmoid_focal_loss
from hyperfocal.losses.kernels import cpu
torch.set_num_threads(1)
x = torch.linspace(-8, 8, 40_000).reshape(-1, 8).requires_grad_()
labels = torch.arange(5000) % 10 - 1
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        loss = sigmoid_focal_loss(x, labels, reduction="sum")
    loss.backward()
print(loss.item(), x.grad.square().sum().item(), cpu.available(), len(caught))
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def total(**environment: str) -> list[str]:
    """Run the program above in a new process; the words of its output."""
    run = subprocess.run(
        [sys.executable, "-c", TOTAL],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(not cpu.available(), reason="no C++ compiler")
def test_two_processes_build_at_once_and_the_next_finds_it(tmp_path: Path):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: total(HYPERFOCAL_CACHE=str(tmp_path)), range(2))
    assert first == second
    assert first[2:] == ["True", "0"]
    (built,) = tmp_path.iterdir()  # and nothing half-made is left beside it
    made = built.stat().st_mtime_ns
    # Without a compiler, but with what was built: no need to build.
    assert total(HYPERFOCAL_CACHE=str(tmp_path), CXX="/nowhere/c++") == first
    assert built.stat().st_mtime_ns == made


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["/nowhere/c++", "false"])
def test_without_a_compiler_the_same_numbers_and_one_warning(tmp_path: Path, compiler: str):
    words = total(HYPERFOCAL_CACHE=str(tmp_path), CXX=compiler)
    assert words[2:5] == ["False", "1", "HyperfocalWarning"]
    assert not list(tmp_path.iterdir())
    fused = total()
    assert float(words[0]) == pytest.approx(float(fused[0]), rel=4e-6)
    assert float(words[1]) == pytest.approx(float(fused[1]), rel=4e-6)


@pytest.mark.slow
@pytest.mark.skipif(not cpu.available(), reason="no C++ compiler")
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    words = total(HYPERFOCAL_CACHE=str(blocked / "cache"))
    assert words[2:] == ["True", "0"]


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HYPERFOCAL_CACHE", str(tmp_path))
    assert cpu.cache_dir() == tmp_path
    monkeypatch.delenv("HYPERFOCAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cpu.cache_dir() == tmp_path / "hyperfocal"
