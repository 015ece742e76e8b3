"""The run folder: paths of its files, and what is written before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperfocal import config as configs
from hyperfocal.device import Precision
from hyperfocal.experiment import Experiment
from hyperfocal.runs.categories import TrainedCategories
from hyperfocal.runs.environment import describe_environment
from hyperfocal.runs.json_files import read_json, write_json
from hyperfocal.runs.writing import sweep_parts
from hyperfocal.types import (
    ConfigError,
    HyperfocalError,
)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        """The complete `Experiment`; the model can be rebuilt from it without its recipe."""
        return self.path / "config.json"

    @property
    def categories(self) -> Path:
        """Names and ids of the categories, and how often each occurs in training."""
        return self.path / "categories.json"

    @property
    def data(self) -> Path:
        """A digest of each image's annotations, with which resuming detects changes."""
        return self.path / "data.json"

    @property
    def environment(self) -> Path:
        """Versions, hardware and command."""
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        """One JSON object per line: ``kind`` is ``step`` or ``evaluation``."""
        return self.path / "metrics.jsonl"

    @property
    def ratios(self) -> Path:
        """One JSON object per line: gradient ratios per category, if the loss has them."""
        return self.path / "ratios.jsonl"

    @property
    def metrics(self) -> Path:
        """The last evaluation, per category too."""
        return self.path / "metrics.json"

    @property
    def weights(self) -> Path:
        """Best weights, for inference."""
        return self.path / "model.safetensors"

    @property
    def checkpoints(self) -> Path:
        """Folder of the newest checkpoints, for resuming."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's event files, with the values of metrics.jsonl."""
        return self.path / "tensorboard"

    @property
    def blackbox(self) -> Path:
        """Folder of the steps whose loss or gradient wasn't finite."""
        return self.path / "blackbox"

    @property
    def is_trained(self) -> bool:
        """Whether it contains results of training or of an import."""
        return self.has_checkpoint or self.weights.exists() or self.metrics.exists()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return any(self.checkpoints.glob("[0-9]*.pt"))

    @property
    def pictures(self) -> tuple[Path, ...]:
        """Figures drawn at the end of a run, as far as its files allow."""
        names = ("curves", "categories", "ratios", "detections")
        return tuple(self.path / f"{name}.png" for name in names)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that a run writes at the top of its folder."""
        described = (self.config, self.categories, self.data, self.environment)
        return (*described, self.log, self.ratios, self.metrics, self.weights, *self.pictures)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of a run, which a new run replaces."""
        return self.checkpoints, self.tensorboard, self.blackbox

    def clear(self) -> None:
        """Delete an earlier run's files, checkpoints first, so that it can't be resumed."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        known = (self.environment, self.data)  # rewritten; they describe the earlier run
        for file in (self.log, self.ratios, self.metrics, self.weights, *known, *self.pictures):
            file.unlink(missing_ok=True)

    def start(
        self,
        experiment: Experiment,
        categories: TrainedCategories,
        precision: Precision | None = None,
        data: Mapping[str, Any] | None = None,
        weights_from: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what is known before the first step.

        Args:
            experiment: the settings.
            categories: the label space.
            precision: what train.precision is on this device; None: nothing is computed.
            data: `RunData` as JSON; None: no data was read.
            weights_from: initial weights of the detector; None: as recorded before.

        Raises:
            HyperfocalError: the folder can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.checkpoints):
                sweep_parts(folder)
            write_json(self.config, configs.dump(experiment))
            write_json(self.categories, categories.as_json())
            if data is not None:
                write_json(self.data, data)
            if weights_from is None:
                weights_from = self._weights_from()
            more = {"precision": precision, "weights_from": weights_from}
            write_json(self.environment, describe_environment() | more)
        except OSError as error:
            raise HyperfocalError(f"{self.path}: can't be written ({error.strerror})") from None

    def _weights_from(self) -> Any:
        """Initial weights of the detector as recorded in environment.json."""
        try:
            known = read_json(self.environment)
        except ConfigError:
            return None
        return known.get("weights_from") if isinstance(known, dict) else None

    def read_experiment(self, trust: Sequence[str] = ()) -> Experiment:
        """Read the run's settings.

        Args:
            trust: modules outside the package that its components may come from.
        """
        if self.path.is_file():
            raise ConfigError(f"{self.path} is a file; give its run folder, {self.path.parent}")
        if not self.path.is_dir():
            raise ConfigError(f"{self.path}: no such run folder")
        if not self.config.exists():
            raise ConfigError(f"{self.path}: not a run folder (it has no {self.config.name})")
        return configs.load_file(Experiment, self.config, configs.trusted(trust))

    def read_categories(self) -> TrainedCategories:
        """The categories that the run was trained on."""
        return TrainedCategories.from_json(read_json(self.categories), self.categories)
