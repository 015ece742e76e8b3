"""Saves imported weights as a run folder."""

from __future__ import annotations

from hyperfocal.data import DataConfig
from hyperfocal.experiment import Experiment, TrainConfig
from hyperfocal.importers.torchvision import Imported
from hyperfocal.runs.categories import TrainedCategories
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.lock import RunLock
from hyperfocal.runs.weights import save_weights
from hyperfocal.types import ConfigError


def write_imported(imported: Imported, run: RunFolder) -> None:
    """Write ``run`` for use with `load`, ``evaluate`` and ``predict``, like a trained run.

    Raises:
        ConfigError: the folder already contains a run, or a process is training in it.
    """
    with RunLock(run.path):
        if run.config.exists():
            raise ConfigError(f"{run.path} already contains a run; choose another --out")
        _write(imported, run)


def _write(imported: Imported, run: RunFolder) -> None:
    config = imported.config.offline()
    detector = config.build(len(imported.categories))
    detector.load_state_dict(imported.state_dict)
    experiment = Experiment(
        train=TrainConfig(iterations=90_000),
        model=config,
        data=DataConfig(train_transform=imported.transform, val_transform=imported.transform),
    )
    run.start(experiment, TrainedCategories(imported.categories))
    save_weights(run.weights, detector)
