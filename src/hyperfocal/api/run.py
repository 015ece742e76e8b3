"""A finished training: its detector, metrics and figures."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfocal.engine.predict import Predictor
from hyperfocal.engine.predict import load as load_predictor
from hyperfocal.names import for_html, one_name
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import read_json

if TYPE_CHECKING:
    import torch

    from hyperfocal.data import TransformConfig
    from hyperfocal.experiment import Experiment
    from hyperfocal.models import Detector
    from hyperfocal.types import Category, CategoryCounts, Detections


class Run:
    """A run folder as an object. `hyperfocal.train` and `hyperfocal.load` return one.

    Examples:
        >>> import hyperfocal
        >>> run = hyperfocal.load("runs/mine")
        >>> run.metrics["AP"] <= run.metrics["AP50"]
        True
        >>> for found in run.predict(["val/000001.jpg", "val/000002.jpg"]):
        ...     names = [run.categories[label].name for label in found.labels]
        ...     assert len(names) == len(found.boxes) == len(found.scores)

    Attributes:
        path: the run folder.
        device: the detector's device.
        stopped_by: the signal that stopped the training early, or None.
        trust: modules outside the package that the run's components may come from.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | int | torch.device = "auto",
        stopped_by: str | None = None,
        trust: Sequence[str] = (),
    ) -> None:
        self.path, self.device, self.stopped_by = Path(path), device, stopped_by
        self.trust = tuple(trust)
        self._folder = RunFolder(self.path)

    @functools.cached_property
    def experiment(self) -> Experiment:
        """All settings of the run, from its config.json."""
        return self._folder.read_experiment(self.trust)

    @functools.cached_property
    def categories(self) -> tuple[Category, ...]:
        """``categories[label]`` has a name, and the id in the user's own annotations."""
        return self._folder.read_categories().categories

    @property
    def counts(self) -> CategoryCounts | None:
        """How often each category occurs in training; None for imported weights."""
        return self._folder.read_categories().counts

    @property
    def metrics(self) -> dict[str, float]:
        """AP, AP50, APr, ... of the last evaluation; empty without a validation split."""
        if not self._folder.metrics.exists():
            return {}
        values = read_json(self._folder.metrics)["metrics"]
        return {name: float("nan") if v is None else float(v) for name, v in values.items()}

    @property
    def category_metrics(self) -> list[dict[str, Any]]:
        """One row of metrics for each category of the last evaluation."""
        if not self._folder.metrics.exists():
            return []
        rows: list[dict[str, Any]] = read_json(self._folder.metrics)["categories"]
        return rows

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: ``kind`` is ``step`` or ``evaluation``."""
        if not self._folder.log.exists():
            return []
        return [json.loads(line) for line in self._folder.log.read_text().splitlines()]

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The detector with its transforms; the weights are loaded on first use."""
        return load_predictor(self.path, self.device, self.trust)

    @property
    def detector(self) -> Detector:
        """The detector, an `nn.Module` in eval mode with the best weights."""
        return self.predictor.detector

    @property
    def precision(self) -> str:
        """Precision of the network: as in training; if that was auto, as suits the device."""
        return self.predictor.precision

    @property
    def transform(self) -> TransformConfig:
        """How images are resized for the detector."""
        return self.predictor.transform

    def predict(
        self,
        images: Any | Sequence[Any],
        *,
        batch_size: int = 8,
        advance: Callable[[int], None] = lambda images: None,
    ) -> list[Detections]:
        """Detect objects; see `hyperfocal.engine.predict.Predictor.predict`."""
        return self.predictor.predict(images, batch_size=batch_size, advance=advance)

    def figures(self) -> list[Path]:
        """Draw the figures that the run's files allow, and return their paths.

        ``curves.png`` (loss and AP over training), ``categories.png`` (AP of each category beside
        its training images) and ``ratios.png`` (gradient ratios, if the loss has them), beside
        ``detections.png`` from the end of training.
        """
        from hyperfocal.figures import category_figure, ratio_figure, training_curves

        curves, categories, ratios, detections = self._folder.pictures
        pictures = [training_curves(self.path, curves)]
        if self.metrics:
            pictures.append(category_figure(self.path, categories))
        if self._folder.ratios.exists():
            pictures.append(ratio_figure(self.path, ratios))
        return [*pictures, *([detections] if detections.exists() else [])]

    def __repr__(self) -> str:
        shown = (f"{name} {value:.3f}" for name, value in self.metrics.items() if name[:2] == "AP")
        return f"Run({str(self.path)!r}: {', '.join(shown) or 'not evaluated'})"

    def _repr_html_(self) -> str:
        """A table of metrics, for a notebook."""
        left = "<th style='text-align:left'>"
        cells = "".join(
            f"<tr>{left}{for_html(one_name(name))}</th><td>{value:.3f}</td></tr>"
            for name, value in self.metrics.items()
        )
        title = for_html(self.path)
        return (
            f"<table><caption>{title}</caption>{cells or '<tr><td>not evaluated</td></tr>'}</table>"
        )


def load(
    run: str | Path, device: str | int | torch.device = "auto", *, trust: Sequence[str] = ()
) -> Run:
    """Load the best weights of a run folder.

    Args:
        run: folder written by ``hyperfocal train``, `hyperfocal.train` or ``hyperfocal import``.
        device: ``"auto"``: a CUDA device if there is one, else the CPU.
        trust: modules outside the package, or .py files, that the run's components may come from,
            such as ``["my_losses"]``: they are imported, so their code is executed.

    Raises:
        ConfigError: the folder, its config or its weights are missing or damaged, there is no such
            device, or a component comes from a module that isn't trusted.

    Examples:
        >>> import hyperfocal
        >>> run = hyperfocal.load("runs/mine")
        >>> len(run.predict("val/000001.jpg"))
        1
    """
    found = Run(run, device, trust=trust)
    _ = found.predictor  # reports damage now, not on first use
    return found
