"""Inference time of a trained detector."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from hyperfocal.data import eval_batches
from hyperfocal.data.splits import read_split
from hyperfocal.engine.predict import load
from hyperfocal.runs.folder import RunFolder

IMAGES = 50
WARM_UP = 5


def milliseconds(run: Path) -> float:
    """Median time per image of network and suppression, over at most 50 val images.

    The images are read and resized before; the first five are run twice, once as warm-up.
    """
    model, data = load(run), RunFolder(run).read_experiment().data
    annotations = read_split(data, "val", model.categories, check="none")
    few = dataclasses.replace(annotations, images=annotations.images[:IMAGES], federated=None)
    batches = [batch.to(model.device) for batch in eval_batches(data, few, batch_size=1)]
    times = []
    with torch.no_grad(), model.autocast():
        for batch in [*batches[:WARM_UP], *batches]:
            _wait(model.device)
            start = time.perf_counter()
            model.detector.detect(batch)
            _wait(model.device)
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[min(WARM_UP, len(batches)) :])


def machine() -> str:
    """The hardware and PyTorch version of the timings."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return (
        f"{platform.processor() or platform.machine()} CPU, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
