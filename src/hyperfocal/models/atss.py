"""ATSS (Zhang et al., CVPR 2020), and the improved baseline of the EFL paper, based on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from hyperfocal.assign import AssignerConfig, ATSSAssigner
from hyperfocal.models.dense import NOTHING_BUILT, DenseDetector, DenseParts, QualityConfig
from hyperfocal.models.fpn import FPN
from hyperfocal.models.head import DenseHead
from hyperfocal.models.inference import Inference
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.quality import QualityBranch
from hyperfocal.models.roles import NeckConfig
from hyperfocal.ops import DeltaCoder, DeltaWeights
from hyperfocal.types import CategoryCounts


class ATSS(DenseDetector):
    """One square anchor per location, assigned with an IoU threshold per object.

    Args:
        num_classes: K.
        counts: images and boxes per category, for losses that weight categories.
        config: the settings; default: `ATSS.Config()`.
        settings: settings that override the config's, see `DenseConfig.with_settings`.

    Examples:
        >>> import hyperfocal, torch
        >>> from hyperfocal.models import Backbone
        >>> small = Backbone.Config("test_resnet", pretrained=False)
        >>> model = hyperfocal.ATSS(num_classes=3, backbone=small)
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
        """Settings of `ATSS`."""

        kind: ClassVar[str] = "atss"

        assigner: AssignerConfig = field(default_factory=ATSSAssigner.Config)
        """Assignment of anchors to objects."""
        box_weight: float = 2.0
        """Factor on the box loss."""
        delta_weights: DeltaWeights = (10.0, 10.0, 5.0, 5.0)
        """Factors on the encoded box deltas x, y, w, h."""

        def __post_init__(self) -> None:
            super().__post_init__()
            self._require(all(w > 0 for w in self.delta_weights), "delta_weights", "positive")

        def parts(
            self,
            num_classes: int,
            counts: CategoryCounts | None = None,
            built: Mapping[str, nn.Module] = NOTHING_BUILT,
        ) -> DenseParts:
            """See `DenseConfig.compose`."""
            return self.compose(
                num_classes,
                counts,
                built,
                assigner=built.get("assigner") or self.assigner.build(num_classes),
                coder=DeltaCoder(self.delta_weights),
                quality=self.quality,
            )

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> ATSS:
            """The detector for K categories, in channels_last memory; see `RetinaNet`'s."""
            return ATSS(num_classes, counts=counts, config=self)

    def __init__(
        self,
        num_classes: int,
        *,
        counts: CategoryCounts | None = None,
        config: ATSS.Config | None = None,
        **settings: Any,
    ) -> None:
        chosen, built = (config or ATSS.Config()).with_settings(settings)
        super().__init__(chosen.parts(num_classes, counts, built))


@dataclass(frozen=True)
class ImprovedBaseline(ATSS.Config):
    """The EFL paper's improved baseline: `ATSS` with an IoU branch and more anchors.

    (Li et al., "Equalized Focal Loss for Dense Long-Tailed Object Detection", CVPR 2022, section
    4.1, and its released settings.) Its longer warm-up and clipping at norm 35 are training
    settings: see the recipe ``improved_baseline_r50_lvis``.
    """

    kind: ClassVar[str] = "improved_baseline"

    neck: NeckConfig = field(
        default_factory=lambda: FPN.Config(extra_source="c5_lateral", relu=False)
    )
    """Feature pyramid."""
    anchors: AnchorGenerator.Config = field(
        default_factory=lambda: AnchorGenerator.Config((6.0, 8.0), 1, (1.0,), center_offset=0.5)
    )
    """Anchors: squares of 6 and 8 strides."""
    head: DenseHead.Config = field(
        default_factory=lambda: DenseHead.Config(
            norm="gn", prior_probability=0.001, tower_bias=True
        )
    )
    """Towers and predictions."""
    assigner: AssignerConfig = field(default_factory=lambda: ATSSAssigner.Config(top_k=18))
    """Assignment of anchors to objects: 18 candidates, about 9 locations with two anchors each."""
    box_weight: float = 1.0
    """Factor on the box loss."""
    delta_weights: DeltaWeights = (1.0, 1.0, 1.0, 1.0)
    """Factors on the encoded box deltas x, y, w, h."""
    quality: QualityBranch = field(
        default_factory=lambda: QualityBranch(target="iou", score="product")
    )
    """IoU branch, and how it enters the score."""
    inference: Inference.Config = field(
        default_factory=lambda: Inference.Config(
            pre_nms=6000, score_threshold=0.0, nms_iou=0.5, max_detections=300
        )
    )
    """Selection and suppression of detections."""
