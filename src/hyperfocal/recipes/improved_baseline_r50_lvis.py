"""LVIS v1, ResNet-50: the EFL paper's improved baseline (Table 2: AP 25.7; with EFL 27.5).

    hyperfocal train improved_baseline_r50_lvis \\
        --data.train.annotations lvis_v1_train.json --data.train.images train2017 \\
        --data.val.annotations lvis_v1_val.json --data.val.images val2017 \\
        --devices 8 --loss efl

Published on val (Li et al. 2022, Table 2, R50): focal loss AP 25.7, APr 14.3, APc 23.8, APf 32.7;
with ``--loss efl`` AP 27.5, APr 20.2, APc 26.1, APf 32.4. Not run here: it needs LVIS and GPUs.
Schedule: 24 epochs of the set that repeat-factor sampling enlarges, 16 images a step, SGD at 0.02,
a tenth of it after 16 epochs and again after 22; 6000 steps of warm-up, gradients clipped at 35.
"""

from hyperfocal.data import DataConfig, TransformConfig
from hyperfocal.data.samplers import RepeatFactorSampler
from hyperfocal.engine.experiment import Experiment, TrainConfig
from hyperfocal.models import Backbone, ImprovedBaseline


def recipe() -> Experiment:
    """The complete config."""
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
            train_transform=TransformConfig(short=tuple(range(640, 801, 32)), long=1333, flip=0.5),
            val_transform=TransformConfig(short=(800,), long=1333),
            workers=4,
        ),
    )
