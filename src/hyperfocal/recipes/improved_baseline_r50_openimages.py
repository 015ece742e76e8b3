"""Open Images Challenge 2019: the improved baseline and EFL, the EFL paper's Table 7.

    hyperfocal train improved_baseline_r50_openimages \\
        --data.train.annotations challenge-2019-train-detection-bbox.csv \\
        --data.train.images train \\
        --data.train.classes challenge-2019-classes-description-500.csv \\
        --data.val.annotations challenge-2019-validation-detection-bbox.csv \\
        --data.val.image-labels challenge-2019-validation-detection-human-imagelabels.csv \\
        --data.val.hierarchy challenge-2019-label500-hierarchy.json \\
        --data.val.images validation --devices 16

Each row is this command with its flags; AP at IoU 0.5 on val, and of the five groups from the
rarest categories (AP1) to the most frequent, as published (Li et al. 2022). Not reproduced here.

    row                           | flags            |   AP  AP1  AP2  AP3  AP4  AP5
    Table 7: improved baseline    |                  | 43.3 19.4 44.3 49.5 50.6 52.2
    Table 7: EFL                  | --loss efl       | 51.5 52.8 52.9 50.8 50.2 50.9
    Table 7: R101                 | R101             | 44.7 19.6 46.6 51.1 52.3 53.4
    Table 7: R101, EFL            | --loss efl R101  | 52.6 53.4 53.8 51.4 51.8 52.3

    R101    --model.backbone.name resnet101.tv_in1k

180k steps of 16 images with uniform sampling; the learning rate is divided by 10 after 120k and
160k. According to the paper all else is as on LVIS; its released settings have 800 pixels without
jitter and a warm-up of 500 steps, as here. Group-of boxes aren't used in training. The paper
doesn't specify whether boxes were expanded by the hierarchy in training; the official tool can
create such a CSV, which can be used instead. Table 7 also has Faster R-CNN,
which is not a recipe here.
"""

import dataclasses

from hyperfocal.data import TransformConfig
from hyperfocal.data.samplers import PlainSampler
from hyperfocal.evaluation import OpenImagesProtocol
from hyperfocal.experiment import EvaluationConfig, Experiment
from hyperfocal.recipes import improved_baseline_r50_lvis


def recipe() -> Experiment:
    """The complete config."""
    base = improved_baseline_r50_lvis.recipe()
    return dataclasses.replace(
        base,
        train=dataclasses.replace(
            base.train,
            epochs=None,
            iterations=180_000,
            milestones=(120 / 180, 160 / 180),
            warmup_iterations=500,
            evaluations=9,
        ),
        data=dataclasses.replace(
            base.data,
            sampler=PlainSampler.Config(),
            train_transform=TransformConfig(short=(800,), long=1333, flip=0.5, min_box=1.0),
        ),
        evaluation=EvaluationConfig(protocol=OpenImagesProtocol()),
    )
