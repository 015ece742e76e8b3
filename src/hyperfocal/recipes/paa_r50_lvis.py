"""LVIS v1: PAA with focal loss, EQLv2 and EFL, the EFL paper's Tables 1 and 6.

    hyperfocal train paa_r50_lvis \\
        --data.train.annotations lvis_v1_train.json --data.train.images coco \\
        --data.val.annotations lvis_v1_val.json --data.val.images coco --devices 16

Each row is this command with its flags; box AP on val as published (Li et al. 2022, EFL). Not
reproduced here. Schedule, data and sampler are those of improved_baseline_r50_lvis.

    row                                 | flags                                |   AP    r    c    f
    Tables 1, 6: PAA                    |                                      | 23.7 14.2 21.6 30.2
    Table 1: with EQLv2 and focal loss  | --loss eqlv2_focal                   | 24.1 16.5 22.1 29.8
    Table 6: with EFL                   | --loss efl                           | 25.6 19.8 23.8 30.2

The paper doesn't specify the prior, the score threshold and NMS of these runs; here they are 0.001,
0, and the detector's defaults. Warm-up is 1000 steps, without clipping: the paper uses the longer
one for other detectors only.
"""

import dataclasses

from hyperfocal.experiment import Experiment
from hyperfocal.models import PAA
from hyperfocal.recipes import improved_baseline_r50_lvis


def recipe() -> Experiment:
    """The complete config."""
    base = improved_baseline_r50_lvis.with_detector(PAA.Config())
    train = dataclasses.replace(base.train, warmup_iterations=1000, clip_norm=None)
    return dataclasses.replace(base, train=train)
