"""COCO, ResNet-101: the paper's second-best RetinaNet (Table 2: AP 39.1), with scale jitter.

    hyperfocal train retinanet_r101_coco \\
        --data.train.annotations instances_train2017.json --data.train.images train2017 \\
        --data.val.annotations instances_val2017.json --data.val.images val2017 \\
        --devices 8

Published: AP 39.1, AP50 59.1, AP75 42.3 on test-dev (Lin et al. 2017, Table 2). Not reproduced
here. 1.5 times the schedule of Table 1e (135k steps, learning rate divided by 10 after 90k and
120k) and scale jitter; the paper doesn't specify its range, ours is 640 to 800 in steps of 32.
Table 1e's 37.8 (no jitter): ``--train.iterations 90000 --data.train-transform.short 800``.
"""

import dataclasses

from hyperfocal.experiment import Experiment, TrainConfig
from hyperfocal.models import Backbone, as_dense
from hyperfocal.recipes import retinanet_r50_coco


def recipe() -> Experiment:
    """The complete config."""
    base = retinanet_r50_coco.recipe()
    jitter = dataclasses.replace(base.data.train_transform, short=tuple(range(640, 801, 32)))
    return dataclasses.replace(
        base,
        train=TrainConfig(iterations=135_000, milestones=(90 / 135, 120 / 135), evaluations=9),
        model=dataclasses.replace(
            as_dense(base.model),
            backbone=Backbone.Config(name="resnet101.tv_in1k", frozen_stages=2),
        ),
        data=dataclasses.replace(base.data, train_transform=jitter),
    )
