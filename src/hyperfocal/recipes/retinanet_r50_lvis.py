"""LVIS v1: RetinaNet with focal loss, EQLv2 and EFL, the EFL paper's Tables 1, 2 and 6.

    hyperfocal train retinanet_r50_lvis \\
        --data.train.annotations lvis_v1_train.json --data.train.images coco \\
        --data.val.annotations lvis_v1_val.json --data.val.images coco --devices 16

Each row is this command with its flags; box AP on val as published (Li et al. 2022, EFL). Not
reproduced here. Schedule, data and sampler are those of improved_baseline_r50_lvis.

    row                                 | flags                                |   AP    r    c    f
    Tables 1, 2, 6: RetinaNet           |                                      | 18.5  9.6 16.1 25.0
    Table 1: with EQLv2 and focal loss  | --loss eqlv2_focal                   | 20.5 12.6 19.2 25.4
    Table 6: with EFL                   | --loss efl                           | 20.5 15.2 18.6 24.8
    Table 2: R101                       | R101                                 | 19.6 10.1 17.3 26.2

    R101    --model.backbone.name resnet101.tv_in1k

The paper doesn't specify the prior, the score threshold and NMS of these runs; here they are 0.001,
0, and the detector's defaults. The longer warm-up and clipping are used, as in the paper. The rows
with Faster R-CNN are in faster_rcnn_r50_lvis.
"""

from hyperfocal.experiment import Experiment
from hyperfocal.models import RetinaNet
from hyperfocal.recipes import improved_baseline_r50_lvis


def recipe() -> Experiment:
    """The complete config."""
    return improved_baseline_r50_lvis.with_detector(RetinaNet.Config())
