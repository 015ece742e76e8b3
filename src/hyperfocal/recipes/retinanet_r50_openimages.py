"""Open Images Challenge 2019: RetinaNet, the EFL paper's Table 7.

    hyperfocal train retinanet_r50_openimages \\
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
    Table 7: RetinaNet            |                  | 32.1 21.0 34.0 35.4 35.6 34.2
    Table 7: RetinaNet, R101      | R101             | 35.8 26.4 38.9 38.3 38.1 36.8

    R101    --model.backbone.name resnet101.tv_in1k

Schedule and data are those of improved_baseline_r50_openimages, the detector is that of
retinanet_r50_lvis. Any loss can be used (``--loss efl``); the paper only has focal loss.
"""

import dataclasses

from hyperfocal.experiment import Experiment
from hyperfocal.recipes import improved_baseline_r50_openimages, retinanet_r50_lvis


def recipe() -> Experiment:
    """The complete config."""
    base = improved_baseline_r50_openimages.recipe()
    return dataclasses.replace(base, model=retinanet_r50_lvis.recipe().model)
