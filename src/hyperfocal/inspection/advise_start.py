"""What to start from: few images are better spent on a detector that has learnt something near."""

from __future__ import annotations

from hyperfocal.engine.experiment import Experiment
from hyperfocal.inspection.measure import Measurements
from hyperfocal.inspection.proposal import Proposal

FEW_IMAGES = 1000
"""Training images below which a detector to start from is worth looking for."""


def advise_start(experiment: Experiment, measured: Measurements) -> Proposal:
    """Fine-tuning for small sets; which detector is near only the user knows."""
    source = "measured: docs/results/own_data.md; how: docs/fine_tuning.md"
    told = f"{measured.images} training images"
    if experiment.model.weights is not None:
        reason = f"{told}, starting from the detector you chose, {experiment.model.weights}"
    elif measured.images >= FEW_IMAGES:
        reason = f"{told} are enough to start from a backbone's weights"
    else:
        reason = (
            f"{told} are few: if you have a run on something near, or torchvision's COCO detector "
            "(hyperfocal import), start from that with --model.weights RUN; categories of the same "
            "names keep what they know"
        )
    return Proposal("start", (), reason, source)
