"""COCO, ResNet-50: ATSS (AP 39.3).

    hyperfocal train atss_r50_coco \\
        --data.train.annotations instances_train2017.json --data.train.images train2017 \\
        --data.val.annotations instances_val2017.json --data.val.images val2017 --devices 8

Each row is this command with its flags; AP on minival as published with the authors' code. Not
reproduced here.

    row                           | flags            |   AP
    ATSS                          |                  | 39.3

Zhang et al. 2020. Schedule: 90k steps of 16 images, SGD at 0.01, divided by 10 after 60k and 80k
steps; 800 pixels, flips.
"""

import dataclasses

from hyperfocal.experiment import Experiment
from hyperfocal.models import ATSS, as_dense
from hyperfocal.recipes import retinanet_r50_coco


def recipe() -> Experiment:
    """The complete config."""
    base = retinanet_r50_coco.recipe()
    return dataclasses.replace(base, model=ATSS.Config(backbone=as_dense(base.model).backbone))
