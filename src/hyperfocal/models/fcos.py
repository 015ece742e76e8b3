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
    """Locations predict distances to the sides of their objects, and centerness.

    The defaults are all of the authors' later settings, which the long-tail papers mark with a
    star: centre sampling, distances in strides after a ReLU, GIoU, centerness on the box tower, NMS
    at IoU 0.6. A location is represented by a square of one stride around it.

    For the original version use ``--model.assigner.radius None --model.no-norm-on-bbox
    --model.quality.tower class --model.quality.score product --model.box-loss iou
    --model.inference.nms-iou 0.5``.

    Args:
        num_classes: K.
        counts: images and boxes per category, for losses that weight categories.
        config: the settings; default: `FCOS.Config()`.
        settings: settings that override the config's, see `DenseConfig.with_settings`.

    Examples:
        >>> import hyperfocal, torch
        >>> from hyperfocal.models import Backbone
        >>> small = Backbone.Config("test_resnet", pretrained=False)
        >>> model = hyperfocal.FCOS(num_classes=3, backbone=small)
        >>> images = [torch.rand(3, 64, 96)]
        >>> boxes = torch.tensor([[8.0, 8.0, 60.0, 56.0]])
        >>> targets = [{"boxes": boxes, "labels": torch.tensor([1])}]
        >>> sorted(model(images, targets))
        ['box', 'classification', 'quality']
        >>> sorted(model.eval()(images)[0])
        ['boxes', 'labels', 'scores']
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
        """Assignment of locations to objects."""
        norm_on_bbox: bool = True
        """Predict distances in strides, after a ReLU (else their logarithms in pixels)."""

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
                    "use the assigner fcos or atss"
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
