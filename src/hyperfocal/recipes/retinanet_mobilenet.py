"""Your own images: RetinaNet on MobileNetV2 for small datasets, on a CPU or one GPU.

    hyperfocal train retinanet_mobilenet \\
        --data.train.annotations train.json --data.train.images images \\
        --data.val.annotations val.json --data.val.images images

Starts from ImageNet weights (timm's, or a local file: ``--model.backbone.weights FILE``), with
frozen batch norms and 0.1 times the learning rate of the other parts. From random weights:
``--model.backbone.no-pretrained``. From a trained detector, such as an earlier run of this recipe:
``--model.weights RUN --lr 3e-4``; categories with the same names are kept (docs/fine_tuning.md).
Images of other sizes: ``--data.train-transform.short 320 --data.val-transform.short 320``. Measured
results: docs/results/own_data.md.
"""

from hyperfocal.data import DataConfig, TransformConfig
from hyperfocal.experiment import Experiment, TrainConfig
from hyperfocal.losses import GIoULoss
from hyperfocal.models import FPN, Backbone, DenseHead, RetinaNet


def recipe() -> Experiment:
    """The complete config."""
    return Experiment(
        train=TrainConfig(
            epochs=16,
            batch_size=8,
            optimizer="adamw",
            lr=1e-3,
            backbone_lr_scale=0.1,
            weight_decay=0.05,
            clip_norm=10.0,
            schedule="cosine",
            warmup_iterations=300,
            warmup_start=0.01,
            precision="auto",
            ema_decay=0.998,
        ),
        model=RetinaNet.Config(
            backbone=Backbone.Config(name="mobilenetv2_100", frozen_stages=2),
            neck=FPN.Config(channels=96),
            head=DenseHead.Config(depth=3, norm="gn"),
            box_loss=GIoULoss.Config(),
            box_weight=2.0,
        ),
        data=DataConfig(
            train_transform=TransformConfig(short=256, long=448, flip=0.5, zoom=(0.8, 1.25)),
            val_transform=TransformConfig(short=256, long=448),
        ),
    )
