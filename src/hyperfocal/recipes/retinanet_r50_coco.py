"""COCO, ResNet-50: the focal-loss paper's RetinaNet at 800 pixels (Table 1e: AP 35.7).

    hyperfocal train retinanet_r50_coco \\
        --data.train.annotations instances_train2017.json --data.train.images train2017 \\
        --data.val.annotations instances_val2017.json --data.val.images val2017 \\
        --devices 8

Published: AP 35.7, AP50 55.0, AP75 38.5 on test-dev (Lin et al. 2017, Table 1e, R50, 800 px). Not
reproduced here: it needs COCO and GPUs. Schedule: 90k steps of 16 images, SGD at 0.01, divided by
10 after 60k and 80k steps. Other rows of Table 1e: ``--data.train-transform.short 600
--data.val-transform.short 600``, with the limit of the long side in proportion.
"""

from hyperfocal.data import DataConfig, TransformConfig
from hyperfocal.experiment import Experiment, TrainConfig
from hyperfocal.models import Backbone, RetinaNet


def recipe() -> Experiment:
    """The complete config."""
    return Experiment(
        train=TrainConfig(iterations=90_000, milestones=(60 / 90, 80 / 90), evaluations=9),
        model=RetinaNet.Config(backbone=Backbone.Config(name="resnet50.tv_in1k", frozen_stages=2)),
        data=DataConfig(
            train_transform=TransformConfig(short=(800,), long=1333, flip=0.5),
            val_transform=TransformConfig(short=(800,), long=1333),
            workers=4,
        ),
    )
