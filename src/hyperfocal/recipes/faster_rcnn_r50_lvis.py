"""LVIS v1: Faster R-CNN and the long-tail losses on it, the EFL paper's Tables 1 and 2.

    hyperfocal train faster_rcnn_r50_lvis \\
        --data.train.annotations lvis_v1_train.json --data.train.images coco \\
        --data.val.annotations lvis_v1_val.json --data.val.images coco --devices 16

Each row is this command with its flags; box AP on val as published (Li et al. 2022). Not
reproduced here: it needs LVIS and GPUs.

    row                                 | flags                                |   AP    r    c    f
    Tables 1, 2: Faster R-CNN           |                                      | 24.1 14.7 22.2 30.5
    Table 2: EQL                        | --loss eql EQL                       | 25.1 15.7 24.4 30.1
    Table 2: EQLv2                      | --loss eqlv2 EQLV2                   | 25.5 16.4 23.9 31.2
    Tables 1, 2: Seesaw                 | --loss seesaw                        | 26.4 17.5 25.3 31.5
    Table 2: R101                       | R101                                 | 25.7 15.1 24.1 32.0
    Table 2: R101, EQLv2                | --loss eqlv2 EQLV2 R101              | 26.9 18.2 25.4 32.4
    Table 2: R101, Seesaw               | --loss seesaw R101                   | 27.8 18.7 27.0 32.8
    Table 2: cRT                        | CRT                                  | 24.8 15.9 23.6 30.1
    Table 2: BAGS                       | BAGS                                 | 26.0 17.2 24.9 31.1
    Table 2: R101, BAGS                 | BAGS R101                            | 27.6 18.7 26.5 32.6

    EQL     --model.roi-head.prior-probability 0.001
    EQLV2   --model.roi-head.prior-probability 0.001
    CRT     --train.only classifier --model.reset-classifier --sampler class_balanced \\
            --train.epochs 12
    BAGS    --train.only classifier --model.reset-classifier --loss bags --train.epochs 12
    R101    --model.backbone.name resnet101.tv_in1k

cRT and BAGS train the classifier of the first row again, so add ``--from RUN``
(docs/fine_tuning.md). BAGS's schedule is not in the paper; here it is cRT's. The paper doesn't give
the other settings of these runs either, which are those of the methods' own code; here they are
Faster R-CNN's with LVIS's score threshold and number of detections. Schedule: 24 epochs of the
training split with repeat-factor sampling, 16 images per step, SGD at 0.02, divided by 10 after 16
and 22 epochs.
"""

import dataclasses

from hyperfocal.experiment import Experiment
from hyperfocal.models import FasterRCNN, Inference, as_dense
from hyperfocal.recipes import atss_r50_lvis


def recipe() -> Experiment:
    """The complete config."""
    base = atss_r50_lvis.recipe()
    model = FasterRCNN.Config(
        backbone=as_dense(base.model).backbone,
        inference=Inference.Config(pre_nms=10_000, score_threshold=1e-4, max_detections=300),
    )
    return dataclasses.replace(base, model=model)
