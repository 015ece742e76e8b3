"""YOLOX's head: towers with batch norm, of each level its own (Ge et al., "YOLOX", 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from hyperfocal.models.csp import spatial_conv
from hyperfocal.models.head import Head, HeadConfig, QualityTower, start_at


class DecoupledHead(Head):
    """K sigmoid logits, 4 box values and a quality logit per anchor, with layers of each level.

    Each tower has ``depth`` blocks of 3x3 convolution, batch norm and SiLU, followed by a 1x1
    convolution that predicts. The initial probability of each anchor is π.

    Args:
        in_channels: channels of the pyramid.
        num_anchors: anchors per location.
        num_classes: K.
        num_levels: number of levels.
        quality: the tower of the quality branch; None: no branch.
        depth, channels, prior_probability, depthwise: see `Config`.
    """

    @dataclass(frozen=True)
    class Config(HeadConfig):
        """Settings of `DecoupledHead`."""

        depth: int = 2
        """Number of 3x3 convolutions in each tower."""
        channels: int | None = None
        """Channels of the towers; none: the pyramid's."""
        depthwise: bool = False
        """Depthwise separable 3x3 convolutions (YOLOX's nano)."""

        kind: ClassVar[str] = "decoupled"

        def __post_init__(self) -> None:
            self._require(self.depth >= 0, "depth", "at least 0")
            self._require(self.channels is None or self.channels >= 1, "channels", "at least 1")
            super().__post_init__()

        def build(
            self,
            in_channels: int,
            num_anchors: int,
            num_classes: int,
            num_levels: int = 3,
            quality: QualityTower | None = None,
        ) -> DecoupledHead:
            """The head for a pyramid with ``in_channels`` and ``num_levels``."""
            return DecoupledHead(
                in_channels,
                num_anchors,
                num_classes,
                num_levels,
                quality=quality,
                **self.arguments(channels=self.channels or in_channels),
            )

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        num_levels: int = 3,
        depth: int = 2,
        channels: int = 256,
        prior_probability: float = 0.01,
        depthwise: bool = False,
        quality: QualityTower | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.quality_tower = quality
        self.level_scales = None
        levels = range(num_levels)

        def tower() -> nn.Sequential:
            widths = [in_channels] + depth * [channels]
            return nn.Sequential(
                *(spatial_conv(widths[n], channels, depthwise=depthwise) for n in range(depth))
            )

        def prediction(outputs: int) -> nn.ModuleList:
            width = channels if depth else in_channels
            return nn.ModuleList(nn.Conv2d(width, num_anchors * outputs, 1) for _ in levels)

        self.cls_tower = nn.ModuleList(tower() for _ in levels)
        self.box_tower = nn.ModuleList(tower() for _ in levels)
        self.cls_logits = prediction(num_classes)
        self.box_deltas = prediction(4)
        self.quality_logits = prediction(1) if quality else None
        start_at(self.cls_logits, prior_probability)
