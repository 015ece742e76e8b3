"""hyperfocal: train dense object detectors on imbalanced data.

``hyperfocal.load(RUN)`` gives a trained detector. The rooms of the house:
`hyperfocal.losses` (usable alone), `ops`, `assign`, `models`, `data`, `evaluation`, `engine`,
`importers`, `recipes`, `figures`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperfocal.engine.predict import Predictor, load
    from hyperfocal.types import Detections

__all__ = ["Detections", "Predictor", "load"]

_HOMES = {
    "load": "hyperfocal.engine.predict",
    "Predictor": "hyperfocal.engine.predict",
    "Detections": "hyperfocal.types",
}


def __getattr__(name: str) -> object:
    # Lazy, so that `hyperfocal --help` and `import hyperfocal.losses` stay quick.
    if name not in _HOMES:
        raise AttributeError(f"module 'hyperfocal' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
