"""COCO, ResNeXt-101-32x8d: the paper's best RetinaNet (Table 2: AP 40.8).

    hyperfocal train retinanet_x101_32x8d_coco \\
        --data.train.annotations instances_train2017.json --data.train.images train2017 \\
        --data.val.annotations instances_val2017.json --data.val.images val2017 \\
        --devices 8

Published: AP 40.8, AP50 61.1, AP75 44.1 on test-dev (Lin et al. 2017, Table 2). Not reproduced
here. Schedule and jitter are those of retinanet_r101_coco.
"""

import dataclasses

from hyperfocal.experiment import Experiment
from hyperfocal.models import Backbone, as_dense
from hyperfocal.recipes import retinanet_r101_coco


def recipe() -> Experiment:
    """The complete config."""
    base = retinanet_r101_coco.recipe()
    backbone = Backbone.Config(name="resnext101_32x8d.tv_in1k", frozen_stages=2)
    return dataclasses.replace(
        base, model=dataclasses.replace(as_dense(base.model), backbone=backbone)
    )
