"""LVIS v1: ATSS with focal loss, EQLv2 and EFL, the EFL paper's Tables 1 and 5.

    hyperfocal train atss_r50_lvis \\
        --data.train.annotations lvis_v1_train.json --data.train.images coco \\
        --data.val.annotations lvis_v1_val.json --data.val.images coco --devices 16

Each row is this command with its flags; box AP on val as published (Li et al. 2022, EFL). Not
reproduced here. Schedule, data and sampler are those of improved_baseline_r50_lvis.

    row                                 | flags                                |   AP    r    c    f
    Table 1: ATSS                       |                                      | 24.7 13.7 23.4 31.1
    Table 1: with EQLv2 and focal loss  | --loss eqlv2_focal                   | 25.2 15.0 24.3 30.8
    Table 5: with EFL                   | --loss efl                           | 25.8 18.1 24.5 30.6
    Table 5: EFL, STS                   | --loss efl STS                       | 26.1 18.6 24.8 30.8
    Table 5: EFL, STS, IB               | --loss efl STS IB                    | 26.8 18.7 25.4 31.9
    Table 5: EFL, STS, IA               | --loss efl STS IA                    | 26.5 20.0 24.8 31.1

    STS    --train.warmup-iterations 6000 --train.clip-norm 35
    IB     --model.quality.target iou
    IA     --model.anchors.base-scales 6 8 --model.assigner.top-k 18

The paper doesn't specify the prior, the score threshold and NMS of these runs; here they are 0.001,
0, and the detector's defaults. Warm-up is 1000 steps, without clipping: the paper uses the longer
one for other detectors only.

Table 5 adds the parts of the improved baseline one by one: STS is the stable training (longer
warm-up, clipping), IB the IoU branch, IA the increased anchors. All three together are
improved_baseline_r50_lvis, whose released settings differ from ATSS in other ways too; the paper
doesn't specify which settings the other rows have; here they have those of ATSS.
"""

import dataclasses

from hyperfocal.experiment import Experiment
from hyperfocal.models import ATSS
from hyperfocal.recipes import improved_baseline_r50_lvis


def recipe() -> Experiment:
    """The complete config."""
    base = improved_baseline_r50_lvis.with_detector(ATSS.Config())
    train = dataclasses.replace(base.train, warmup_iterations=1000, clip_norm=None)
    return dataclasses.replace(base, train=train)
