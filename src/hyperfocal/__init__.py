"""hyperfocal: train dense object detectors on imbalanced data.

`train` trains a detector and returns a `Run`; `load` returns the `Run` of a folder; `evaluate`
evaluates a run or any other detections; `doctor` finds problems in a dataset. The losses can be
used on their own: `hyperfocal.losses`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperfocal.api.doctor import Diagnosis, doctor
    from hyperfocal.api.evaluation import evaluate
    from hyperfocal.api.run import Run, load
    from hyperfocal.api.training import train
    from hyperfocal.data import annotations_of, read_annotations
    from hyperfocal.experiment import Experiment
    from hyperfocal.models import ATSS, FCOS, PAA, YOLOX, FasterRCNN, RetinaNet
    from hyperfocal.types import (
        AnnotationSet,
        Category,
        ConfigError,
        DataError,
        Detections,
        HyperfocalError,
        HyperfocalWarning,
    )

    __version__: str

__all__ = [
    "ATSS",
    "FCOS",
    "PAA",
    "YOLOX",
    "AnnotationSet",
    "Category",
    "ConfigError",
    "DataError",
    "Detections",
    "Diagnosis",
    "Experiment",
    "FasterRCNN",
    "HyperfocalError",
    "HyperfocalWarning",
    "RetinaNet",
    "Run",
    "__version__",
    "annotations_of",
    "doctor",
    "evaluate",
    "load",
    "read_annotations",
    "train",
]

_HOMES = {
    "ATSS": "hyperfocal.models",
    "FCOS": "hyperfocal.models",
    "PAA": "hyperfocal.models",
    "YOLOX": "hyperfocal.models",
    "AnnotationSet": "hyperfocal.types",
    "Category": "hyperfocal.types",
    "ConfigError": "hyperfocal.types",
    "DataError": "hyperfocal.types",
    "Detections": "hyperfocal.types",
    "Diagnosis": "hyperfocal.api.doctor",
    "Experiment": "hyperfocal.experiment",
    "FasterRCNN": "hyperfocal.models",
    "HyperfocalError": "hyperfocal.types",
    "HyperfocalWarning": "hyperfocal.types",
    "RetinaNet": "hyperfocal.models",
    "Run": "hyperfocal.api.run",
    "annotations_of": "hyperfocal.data",
    "doctor": "hyperfocal.api.doctor",
    "evaluate": "hyperfocal.api.evaluation",
    "load": "hyperfocal.api.run",
    "read_annotations": "hyperfocal.data",
    "train": "hyperfocal.api.training",
}


def __getattr__(name: str) -> object:
    # Lazy, so that `import hyperfocal`, `hyperfocal --help` and `hyperfocal.losses` are fast.
    if name == "__version__":
        from hyperfocal.versions import version_of

        return version_of("hyperfocal")
    if name not in _HOMES:
        raise AttributeError(f"module 'hyperfocal' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
