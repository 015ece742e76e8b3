"""Saves and restores the global state that training changes."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image


@contextlib.contextmanager
def globals_restored() -> Iterator[None]:
    """Restore the global state that training changes.

    Random states, torch's deterministic mode, warning filters, the environment and lightning's log
    level.
    """
    rng, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002, Fabric seeds it
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    logger, environment = logging.getLogger("lightning_fabric"), dict(os.environ)
    level = logger.level
    max_pixels = Image.MAX_IMAGE_PIXELS
    with torch.random.fork_rng(), warnings.catch_warnings():
        try:
            yield
        finally:
            random.setstate(rng)
            np.random.set_state(legacy)  # noqa: NPY002
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            logger.setLevel(level)
            Image.MAX_IMAGE_PIXELS = max_pixels
            os.environ.clear()
            os.environ.update(environment)
