"""`hyperfocal.doctor`: problems of a dataset and suggested settings, as objects."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfocal.api.data import Data, as_files, bar, in_memory
from hyperfocal.api.process_state import globals_restored
from hyperfocal.api.settings import Settings, as_experiment
from hyperfocal.api.training import with_files

if TYPE_CHECKING:
    from hyperfocal.experiment import Experiment
    from hyperfocal.inspection import Advice, Examination, Finding


@dataclass(frozen=True)
class Diagnosis:
    """Result of `doctor`: findings and suggested settings. Has a notebook view.

    Attributes:
        examination: all findings and statistics.
        advice: suggested settings; None if no training split could be read.

    Examples:
        >>> import hyperfocal
        >>> found = hyperfocal.doctor(("train.json", "train"), recipe="demo", verbose=False)
        >>> [finding.kind for finding in found.findings if finding.kind == "no_val"]
        ['no_val']
    """

    examination: Examination
    advice: Advice | None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Problems and remarks, most severe first, with ``severity``, ``text``, ``cases``."""
        return self.examination.findings

    @property
    def has_errors(self) -> bool:
        """Whether something has to be fixed before training."""
        return self.examination.has_errors

    @property
    def settings(self) -> dict[str, Any]:
        """The suggestions as ``settings`` of `hyperfocal.train`."""
        return {} if self.advice is None else as_settings(self.advice.flags)

    def write_html(self, path: str | Path) -> Path:
        """Write the report with images, charts and advice as one self-contained HTML file."""
        from hyperfocal.inspection import write_page

        write_page(self.examination, self.advice, Path(path))
        return Path(path)

    def __str__(self) -> str:
        """The report as printed by ``hyperfocal doctor``."""
        from rich.console import Console

        from hyperfocal.inspection import print_report

        text = io.StringIO()
        print_report(self.examination, self.advice, Console(file=text, width=100))
        return text.getvalue()

    def _repr_html_(self) -> str:
        """The HTML report in an iframe."""
        import html

        from hyperfocal.inspection.page import page

        text = html.escape(page(self.examination, self.advice), quote=True)
        return f'<iframe srcdoc="{text}" width="100%" height="600" sandbox></iframe>'


@globals_restored()
def doctor(
    train: Data,
    val: Data | None = None,
    *,
    recipe: str | Path | Experiment = "retinanet_mobilenet",
    settings: Settings | None = None,
    categories: Sequence[str] | None = None,
    decode: str = "sample",
    verbose: bool = True,
) -> Diagnosis:
    """Check a dataset for problems, and suggest settings for a recipe.

    Args:
        train: the training split, as for `hyperfocal.train`; or a folder that is searched for
            training and validation splits.
        val: the validation split.
        recipe: the recipe that you are going to train.
        settings: flags by name, as for `hyperfocal.train`.
        categories: names in label order, for a torch Dataset.
        decode: how many images to decode: ``"none"``, ``"sample"`` (500 per split) or ``"full"``.
        verbose: show progress.

    Raises:
        HyperfocalError: settings or data that can't be read at all.

    Examples:
        >>> import hyperfocal
        >>> found = hyperfocal.doctor(
        ...     ("train.json", "train"), ("val.json", "val"), recipe="demo", verbose=False
        ... )
        >>> found.has_errors
        False
        >>> texts = [finding.text for finding in found.findings]
        >>> settings = found.settings  # for hyperfocal.train
    """
    from rich.console import Console

    from hyperfocal.data.splits import Splits
    from hyperfocal.inspection import advise, examine, find_splits

    console = Console(quiet=not verbose)
    original = as_experiment(recipe, settings)
    name = recipe if isinstance(recipe, str) else "recipe"
    memory = None
    if isinstance(train, str | Path) and val is None and Path(train).is_dir():
        found = find_splits(train)
        pairs = {key: (split.annotations, split.images) for key, split in found.items()}
        train, val = pairs["train"], pairs.get("val")
    experiment = with_files(original, train, val, Path("runs/doctor"))
    if as_files(train, "train") is None:
        own = in_memory(train, "train", categories, None, console)
        other = val if val is None else in_memory(val, "val", categories, own.categories, console)
        memory = Splits(own, other)

    @contextlib.contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        with bar(console, label, total, "boxes" if label == "anchors" else "images") as advance:
            yield advance

    examination = examine(experiment, decode, stage, memory)  # type: ignore[arg-type]
    return Diagnosis(examination, advise(examination, original, name))


def as_settings(flags: Sequence[str]) -> dict[str, Any]:
    """Command-line flags as settings: ``["--a.b", "1", "2"]`` gives ``{"a.b": ["1", "2"]}``."""
    settings: dict[str, Any] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            name = word.removeprefix("--")
            path, dot, last = name.rpartition(".")
            is_off = last.startswith("no-")
            name = f"{path}{dot}{last.removeprefix('no-')}"
            settings[name] = not is_off
        elif settings[name] is True:
            settings[name] = word
        else:
            before = settings[name]
            settings[name] = [*before, word] if isinstance(before, list) else [before, word]
    return settings
