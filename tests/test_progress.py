"""Progress bars: live on terminals and in notebooks, lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hyperfocal import progress
from hyperfocal.progress import ProgressBar


@pytest.mark.parametrize(
    ("terminal", "notebook", "widgets", "live"),
    [
        (True, False, False, True),
        (False, True, True, True),
        (False, True, False, False),
        (False, False, True, False),
    ],
)
def test_a_bar_is_live_on_terminals_and_in_notebooks_with_widgets(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, notebook: bool, widgets: bool, live: bool
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, force_jupyter=notebook)
    monkeypatch.setattr(progress, "find_spec", lambda name: object() if widgets else None)
    assert (ProgressBar(console, "train", 10, "it").live is not None) is live


def test_elsewhere_lines_have_count_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    file = io.StringIO()
    bar = ProgressBar(Console(file=file, width=200), "train", 110, "it", start=10)
    bar.advance(40, "loss 1.5")
    assert file.getvalue().split() == [
        "train",
        "50/110",
        "2.0",
        "it/s",
        "ETA",
        "0:30",
        "loss",
        "1.5",
    ]
