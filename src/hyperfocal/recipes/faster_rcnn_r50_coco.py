"""COCO, ResNet-50: Faster R-CNN with a feature pyramid, the two-stage baseline.

    hyperfocal train faster_rcnn_r50_coco \\
        --data.train.annotations instances_train2017.json --data.train.images train2017 \\
        --data.val.annotations instances_val2017.json --data.val.images val2017 --devices 8

Published: Faster R-CNN with FPN, ResNet-101: AP 36.2, AP50 59.1, AP75 39.0 on test-dev (Lin et al.
2017, Focal Loss, Table 2, its single-model entry). Not reproduced here: it needs COCO and GPUs. For
ResNet-101 add ``--model.backbone.name resnet101.tv_in1k``. Schedule: 90k steps of 16 images, SGD
at 0.02, divided by 10 after 60k and 80k steps; 800 pixels, flips.
"""

import dataclasses

from hyperfocal.experiment import Experiment
from hyperfocal.models import FasterRCNN, as_dense
from hyperfocal.recipes import retinanet_r50_coco


def recipe() -> Experiment:
    """The complete config."""
    base = retinanet_r50_coco.recipe()
    train = dataclasses.replace(base.train, lr=0.02)
    model = FasterRCNN.Config(backbone=as_dense(base.model).backbone)
    return dataclasses.replace(base, train=train, model=model)
