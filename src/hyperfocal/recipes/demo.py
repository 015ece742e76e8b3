"""The demo: a small RetinaNet on a synthetic long-tailed dataset, from random weights.

    hyperfocal demo            (or: make demo)

On 2 CPU cores: about 5 minutes; docs/results/demo.md has the measured accuracy.
"""

from hyperfocal.data import DataConfig, TransformConfig
from hyperfocal.experiment import Experiment, TrainConfig
from hyperfocal.losses import GIoULoss
from hyperfocal.models import FPN, AnchorGenerator, Backbone, DenseHead, RetinaNet


def recipe() -> Experiment:
    """The complete config."""
    size = TransformConfig(short=160, long=160)
    return Experiment(
        train=TrainConfig(
            epochs=12,
            batch_size=8,
            optimizer="adamw",
            lr=2e-3,
            weight_decay=0.05,
            clip_norm=10.0,
            schedule="cosine",
            warmup_iterations=100,
            warmup_start=0.01,
            precision="auto",
            ema_decay=0.995,
            evaluations=4,
        ),
        model=RetinaNet.Config(
            backbone=Backbone.Config(name="resnet10t", pretrained=False),
            neck=FPN.Config(channels=64),
            head=DenseHead.Config(depth=2, norm="gn"),
            anchors=AnchorGenerator.Config(base_scales=(3.0,), scales_per_octave=2),
            box_loss=GIoULoss.Config(),
        ),
        data=DataConfig(
            train_transform=TransformConfig(short=160, long=160, flip=0.5, zoom=(0.7, 1.4)),
            val_transform=size,
        ),
    )
