"""LVIS v1: the EFL paper's improved baseline and EFL on it, Tables 2 to 6 (AP 25.7; EFL 27.5).

    hyperfocal train improved_baseline_r50_lvis \\
        --data.train.annotations lvis_v1_train.json --data.train.images coco \\
        --data.val.annotations lvis_v1_val.json --data.val.images coco --devices 16

``coco`` contains both train2017 and val2017, because LVIS's val has images of both. Each row is
this command with its flags; box AP on val as published (Li et al. 2022). Not reproduced here: it
needs LVIS and GPUs.

    row                                 | flags                                |   AP    r    c    f
    Tables 2, 5, 6: improved baseline   |                                      | 25.7 14.3 23.8 32.7
    Tables 2 to 6: EFL                  | --loss efl                           | 27.5 20.2 26.1 32.4
    Table 2: R101                       | R101                                 | 27.0 14.4 25.7 34.0
    Table 2: R101, EFL                  | --loss efl R101                      | 29.2 23.5 27.4 33.8
    Table 3: weighting factor alone     | --loss efl --loss.factors weighting  | 26.1 15.6 24.5 32.6
    Table 3: focusing factor alone      | --loss efl --loss.factors focusing   | 26.2 17.7 24.7 31.5
    Table 4: s = 0                      | --loss efl --loss.scale 0            | 25.7 14.3 23.8 32.7
    Table 4: s = 1                      | --loss efl --loss.scale 1            | 26.3 16.3 24.6 32.6
    Table 4: s = 2                      | --loss efl --loss.scale 2            | 26.6 17.6 24.6 32.7
    Table 4: s = 4                      | --loss efl --loss.scale 4            | 27.3 19.9 25.5 32.6
    Table 4: s = 12                     | --loss efl --loss.scale 12           | 26.5 19.9 24.6 31.6

    R101   --model.backbone.name resnet101.tv_in1k

The other rows of Table 5 start from ATSS: atss_r50_lvis. The other rows of Tables 1 and 2 are those
of Faster R-CNN: faster_rcnn_r50_lvis.

Schedule: 24 epochs of the training split with repeat-factor sampling, 16 images per step, SGD at
0.02, divided by 10 after 16 and 22 epochs; 6000 steps of warm-up, gradients clipped at 35.
"""

import dataclasses

from hyperfocal.data import DataConfig, TransformConfig
from hyperfocal.data.samplers import RepeatFactorSampler
from hyperfocal.evaluation import LvisProtocol
from hyperfocal.experiment import EvaluationConfig, Experiment, TrainConfig
from hyperfocal.models import Backbone, DenseConfig, ImprovedBaseline, as_dense


def recipe() -> Experiment:
    """The complete config."""
    jitter = tuple(range(640, 801, 32))
    return Experiment(
        train=TrainConfig(
            epochs=24,
            lr=0.02,
            milestones=(16 / 24, 22 / 24),
            warmup_iterations=6000,
            warmup_start=0.001,
            clip_norm=35.0,
            evaluations=6,
        ),
        model=ImprovedBaseline(backbone=Backbone.Config(name="resnet50.tv_in1k", frozen_stages=2)),
        data=DataConfig(
            sampler=RepeatFactorSampler.Config(rounding="ceil"),
            train_transform=TransformConfig(short=jitter, long=1333, flip=0.5, min_box=1.0),
            val_transform=TransformConfig(short=(800,), long=1333),
            workers=4,
        ),
        evaluation=EvaluationConfig(protocol=LvisProtocol()),
    )


def with_detector(model: DenseConfig) -> Experiment:
    """The recipe with another detector, with settings that the paper doesn't specify.

    The head's prior is 0.001. Inference has LVIS's number of detections and no score threshold,
    because rare categories have low scores.
    """
    base = recipe()
    inference = dataclasses.replace(model.inference, score_threshold=0.0, max_detections=300)
    head = dataclasses.replace(model.head, prior_probability=0.001)
    backbone = as_dense(base.model).backbone
    model = dataclasses.replace(model, backbone=backbone, head=head, inference=inference)
    return dataclasses.replace(base, model=model)
