"""LVIS v1: FCOS (starred) with focal loss, EQLv2 and EFL, the EFL paper's Tables 1 and 6.

    hyperfocal train fcos_r50_lvis \\
        --data.train.annotations lvis_v1_train.json --data.train.images coco \\
        --data.val.annotations lvis_v1_val.json --data.val.images coco --devices 16

Each row is this command with its flags; box AP on val as published (Li et al. 2022, EFL). Not
reproduced here. Schedule, data and sampler are those of improved_baseline_r50_lvis.

    row                                 | flags                                |   AP    r    c    f
    Tables 1, 6: FCOS*                  |                                      | 22.6 12.7 20.9 28.9
    Table 1: with EQLv2 and focal loss  | --loss eqlv2_focal                   | 23.0 14.1 21.3 28.7
    Table 6: with EFL                   | --loss efl                           | 23.4 14.9 21.9 28.7

The star: with centre sampling. The paper doesn't specify whether distances are in strides and GIoU
is used, as here, nor the prior, the score threshold and NMS of these runs; here they are 0.001, 0,
and the detector's defaults. The longer warm-up and clipping are used, as in the paper.
"""

from hyperfocal.experiment import Experiment
from hyperfocal.models import FCOS
from hyperfocal.recipes import improved_baseline_r50_lvis


def recipe() -> Experiment:
    """The complete config."""
    return improved_baseline_r50_lvis.with_detector(FCOS.Config())
