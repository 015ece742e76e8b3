"""Initial weights: with few images, fine-tuning a detector trained on similar data is better."""

from __future__ import annotations

from hyperfocal.experiment import Experiment
from hyperfocal.inspection.measure import Measurements
from hyperfocal.inspection.proposal import Proposal

FEW_IMAGES = 1000
"""Number of training images below which fine-tuning is recommended."""


def advise_start(experiment: Experiment, measured: Measurements) -> Proposal:
    """Fine-tuning for small datasets; only the user knows which detector's data is similar."""
    source = "measured: docs/results/own_data.md; how: docs/fine_tuning.md"
    found = f"{measured.images} training images"
    if experiment.model.weights is not None:
        reason = f"{found}, starting from the detector you chose, {experiment.model.weights}"
    elif measured.images >= FEW_IMAGES:
        reason = f"{found} are enough to start from a backbone's weights"
    else:
        reason = (
            f"{found} are few: if you have a run on similar data, or torchvision's COCO detector "
            "(hyperfocal import), start from it with --model.weights RUN; categories with the same "
            "names keep their weights"
        )
    return Proposal("start", (), reason, source)
