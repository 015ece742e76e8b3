"""FCOS (Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from hyperfocal.assign import Assigner, AssignerConfig, FCOSAssigner
from hyperfocal.models.dense import NOTHING_BUILT, DenseDetector, DenseParts, QualityConfig
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.ops import DistanceCoder
from hyperfocal.types import CategoryCounts, ConfigError


class FCOS(DenseDetector):
    """Every location predicts distances to the sides of its object, and how central it is.

    The defaults are the authors' later settings, all of them on, which the long-tail papers mark
    with a star: centre sampling, distances in strides behind a ReLU, GIoU, centerness on the box
    tower, suppression at IoU 0.6. A location is a square of one stride around its point.

    The first version: ``--model.assigner.radius None --model.no-norm-on-bbox
    --model.quality.tower class --model.quality.score product --model.box-loss iou
    --model.inference.nms-iou 0.5``.

    Args:
        num_classes: K.
        counts: how often each category occurs in training, for losses that weigh categories.
        config: the settings; default: those of `FCOS.Config`.
        settings: single settings in place of the config's, see `DenseConfig.with_settings`.
    """

    @dataclass(frozen=True)
    class Config(QualityConfig):
        """Settings of `FCOS`."""

        kind: ClassVar[str] = "fcos"

        anchors: AnchorGenerator.Config = field(
            default_factory=lambda: AnchorGenerator.Config((1.0,), 1, (1.0,), center_offset=0.5)
        )
        """Locations, as squares of one stride."""
        assigner: AssignerConfig = field(default_factory=FCOSAssigner.Config)
        """Which locations are trained on which object."""
        norm_on_bbox: bool = True
        """Predict distances in strides, behind a ReLU (else their logarithms in pixels)."""

        def __post_init__(self) -> None:
            super().__post_init__()
            one_stride = self.anchors.base_scales == (1.0,) and self.anchors.per_location == 1
            self._require(one_stride, "anchors", "one square of one stride (base_scales 1)")

        def parts(
            self,
            num_classes: int,
            counts: CategoryCounts | None = None,
            built: Mapping[str, nn.Module] = NOTHING_BUILT,
        ) -> DenseParts:
            """See `DenseConfig.compose`."""
            assigner = built.get("assigner") or self.assigner.build(num_classes)
            if not (isinstance(assigner, Assigner) and assigner.centers_inside):
                raise ConfigError(
                    f"fcos predicts distances to the four sides, but {type(assigner).__name__} "
                    "doesn't declare that its positives lie inside their objects (centers_inside); "
                    "take the assigner fcos or atss"
                )
            return self.compose(
                num_classes,
                counts,
                built,
                assigner=assigner,
                coder=DistanceCoder("linear" if self.norm_on_bbox else "exp"),
                quality=self.quality,
            )

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> FCOS:
            """The detector for K categories, in channels_last memory; see `RetinaNet`'s."""
            return FCOS(num_classes, counts=counts, config=self)

    def __init__(
        self,
        num_classes: int,
        *,
        counts: CategoryCounts | None = None,
        config: FCOS.Config | None = None,
        **settings: Any,
    ) -> None:
        chosen, built = (config or FCOS.Config()).with_settings(settings)
        super().__init__(chosen.parts(num_classes, counts, built))
