"""COCO, ResNet-50: FCOS with its authors' improvements (AP 38.7).

    hyperfocal train fcos_r50_coco \\
        --data.train.annotations instances_train2017.json --data.train.images train2017 \\
        --data.val.annotations instances_val2017.json --data.val.images val2017 --devices 8

Each row is this command with its flags; AP on minival as published with the authors' code. Not
reproduced here.

    row                           | flags            |   AP
    FCOS, improved                |                  | 38.7
    FCOS, first version           | FIRST            | 37.1

    FIRST  --model.assigner.radius None --model.no-norm-on-bbox --model.quality.tower class \\
           --model.quality.score product --model.box-loss iou --model.inference.nms-iou 0.5

Improved: centre sampling, distances in strides, centerness on the box tower, GIoU, NMS at IoU 0.6
(Tian et al. 2019, and their later code). Schedule: 90k steps of 16 images, SGD at 0.01, divided by
10 after 60k and 80k steps; 800 pixels, flips.
"""

import dataclasses

from hyperfocal.experiment import Experiment
from hyperfocal.models import FCOS, as_dense
from hyperfocal.recipes import retinanet_r50_coco


def recipe() -> Experiment:
    """The complete config."""
    base = retinanet_r50_coco.recipe()
    return dataclasses.replace(base, model=FCOS.Config(backbone=as_dense(base.model).backbone))
