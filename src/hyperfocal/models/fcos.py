"""FCOS (Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hyperfocal.assign import FCOSAssigner
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.quality_config import QualityDetectorConfig
from hyperfocal.models.quality_detector import QualityDetector
from hyperfocal.ops import DistanceCoder
from hyperfocal.types import CategoryCounts


class FCOS(QualityDetector):
    """Every location predicts distances to the sides of its object, and how central it is.

    The defaults are the authors' later settings, all of them on, which the long-tail papers mark
    with a star: centre sampling, distances in strides behind a ReLU, GIoU, centerness on the box
    tower, suppression at IoU 0.6. A location is a square of one stride around its point.

    The first version: ``--model.assigner.radius None --model.no-norm-on-bbox
    --model.quality.tower class --model.quality.score product --model.box-loss iou
    --model.inference.nms-iou 0.5``.
    """

    @dataclass(frozen=True)
    class Config(QualityDetectorConfig):
        """Settings of `FCOS`."""

        kind: ClassVar[str] = "fcos"

        anchors: AnchorGenerator.Config = field(
            default_factory=lambda: AnchorGenerator.Config((1.0,), 1, (1.0,), center_offset=0.5)
        )
        """Locations, as squares of one stride."""
        assigner: FCOSAssigner.Config = field(default_factory=FCOSAssigner.Config)
        """Which locations answer for which object."""
        norm_on_bbox: bool = True
        """Predict distances in strides, behind a ReLU (else their logarithms in pixels)."""

        def __post_init__(self) -> None:
            super().__post_init__()
            one_stride = self.anchors.base_scales == (1.0,) and self.anchors.per_location == 1
            self._require(one_stride, "anchors", "one square of one stride (base_scales 1)")

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> FCOS:
            """The detector for K categories, in channels_last memory; see `RetinaNet`'s."""
            coder = DistanceCoder("linear" if self.norm_on_bbox else "exp")
            return FCOS(self.parts(num_classes, counts, self.assigner.build(num_classes), coder))

    @property
    def known_beforehand(self) -> bool:
        """See `QualityDetector`."""
        return self.quality.target == "centerness"
