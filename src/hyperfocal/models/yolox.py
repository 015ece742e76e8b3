"""YOLOX (Ge et al., "YOLOX: Exceeding YOLO Series in 2021")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hyperfocal.assign import AssignerConfig, PredictionAssigner, SimOTAAssigner
from hyperfocal.losses import (
    BoxLossConfig,
    ClassificationLossConfig,
    IoULoss,
    QualityFocalLoss,
)
from hyperfocal.models.criterion import ImageTruth, Positives
from hyperfocal.models.csp_darknet import CSPDarknet
from hyperfocal.models.decoupled_head import DecoupledHead
from hyperfocal.models.dense import NOTHING_BUILT, DenseConfig, DenseDetector, DenseParts
from hyperfocal.models.head import Head, HeadConfig
from hyperfocal.models.inference import Inference
from hyperfocal.models.pafpn import PAFPN
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.quality import QualityBranch
from hyperfocal.models.roles import BackboneConfig, NeckConfig
from hyperfocal.ops import BoxCoder, DeltaCoder
from hyperfocal.types import Assignment, CategoryCounts, ConfigError


class YOLOX(DenseDetector):
    """Locations predict boxes, objectness and categories, assigned by SimOTA.

    A location is a square of one stride. Its box outputs are the offset of the box's centre from
    the location's, in strides, and the logarithm of the box's size in strides. The loss is

        (Σ_all BCE(objectness) + Σ_positives classification + 5 Σ_positives (1 - IoU²)) / N

    with N positives. The classification loss is the cross entropy with the IoU of the predicted box
    as the target of its category (`QualityFocalLoss` with β = 0); another is chosen with ``loss``.
    A score is the product of classification and objectness.

    Equalized Focal Loss's released code uses YOLOX's networks with the assignment of the improved
    baseline, without objectness; that is `ImprovedBaseline` with this backbone, neck and head.

    Args:
        num_classes: K.
        counts: images and boxes per category, for losses that weight categories.
        config: the settings; default: `YOLOX.Config()`.
        settings: settings that override the config's, see `DenseConfig.with_settings`.

    Examples:
        >>> import hyperfocal, torch
        >>> from hyperfocal.models import CSPDarknet
        >>> model = hyperfocal.YOLOX(num_classes=3, backbone=CSPDarknet.Config("nano"))
        >>> images = [torch.rand(3, 64, 96)]
        >>> boxes = torch.tensor([[8.0, 8.0, 60.0, 56.0]])
        >>> targets = [{"boxes": boxes, "labels": torch.tensor([1])}]
        >>> sorted(model(images, targets))
        ['box', 'classification', 'quality']
        >>> sorted(model.eval()(images)[0])
        ['boxes', 'labels', 'scores']
    """

    @dataclass(frozen=True)
    class Config(DenseConfig):
        """Settings of `YOLOX`."""

        kind: ClassVar[str] = "yolox"

        backbone: BackboneConfig = field(default_factory=CSPDarknet.Config)
        """Backbone network."""
        neck: NeckConfig = field(default_factory=PAFPN.Config)
        """Feature pyramid."""
        anchors: AnchorGenerator.Config = field(
            default_factory=lambda: AnchorGenerator.Config((1.0,), 1, (1.0,), center_offset=0.5)
        )
        """Locations, as squares of one stride."""
        head: HeadConfig = field(default_factory=DecoupledHead.Config)
        """Towers and predictions."""
        assigner: AssignerConfig = field(default_factory=SimOTAAssigner.Config)
        """Assignment of locations to objects."""
        loss: ClassificationLossConfig = field(
            default_factory=lambda: QualityFocalLoss.Config(beta=0.0)
        )
        """Classification loss of the positives."""
        box_loss: BoxLossConfig = field(default_factory=lambda: IoULoss.Config(form="squared"))
        """Box loss."""
        box_weight: float = 5.0
        """Factor on the box loss."""
        quality: QualityBranch = field(
            default_factory=lambda: QualityBranch(
                target="object", weigh_boxes=False, score="product", threshold_on="score"
            )
        )
        """Objectness branch, and how it enters the score."""
        inference: Inference.Config = field(
            default_factory=lambda: Inference.Config(score_threshold=0.01, nms_iou=0.65)
        )
        """Selection and suppression of detections."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.mining is not None:
                raise ConfigError(
                    "yolox: mining selects negatives of the classification, which yolox trains on "
                    "positives only; use --mining None"
                )
            self._require(self.quality.target == "object", "quality", "a branch with target object")

        def parts(
            self,
            num_classes: int,
            counts: CategoryCounts | None = None,
            built: Mapping[str, nn.Module] = NOTHING_BUILT,
        ) -> DenseParts:
            """See `DenseConfig.compose`."""
            assigner = built.get("assigner") or self.assigner.build(num_classes)
            coder, refine = DeltaCoder(), None
            if isinstance(assigner, PredictionAssigner):
                refine = RefineByPredictions(assigner, coder)
            return self.compose(
                num_classes,
                counts,
                built,
                assigner=assigner,
                coder=coder,
                quality=self.quality,
                refine=refine,
            )

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> YOLOX:
            """The detector for K categories, in channels_last memory; see `RetinaNet`'s."""
            return YOLOX(num_classes, counts=counts, config=self)

    def __init__(
        self,
        num_classes: int,
        *,
        counts: CategoryCounts | None = None,
        config: YOLOX.Config | None = None,
        **settings: Any,
    ) -> None:
        chosen, built = (config or YOLOX.Config()).with_settings(settings)
        super().__init__(chosen.parts(num_classes, counts, built))


@dataclass(frozen=True)
class RefineByPredictions:
    """Selects each object's positives among its candidates by boxes and scores.

    A candidate's scores are ``sqrt(sigmoid(classification) · sigmoid(objectness))``.

    Attributes:
        assigner: selects the positives.
        coder: decodes boxes.
    """

    assigner: PredictionAssigner
    coder: BoxCoder

    @torch.no_grad()
    def __call__(
        self,
        head: Head,
        cls_maps: Sequence[Tensor],
        candidates: Positives,
        truth: ImageTruth,
    ) -> Assignment:
        """See `Refine`; only the logits of one image are in memory at a time."""
        assignment, matched = candidates.assignment, candidates.matched
        logits = torch.cat(
            [
                head.classify_image(cls_maps, image)[matched.prior[matched.image == image]].float()
                for image in range(len(truth.targets))
            ]
        )
        if candidates.quality is None:
            raise ConfigError("assignment by predictions needs a quality branch")
        scores = (logits.sigmoid() * candidates.quality.sigmoid()[:, None]).sqrt()
        boxes = self.coder.decode(matched.deltas, matched.anchors)
        return self.assigner.choose(assignment, boxes, scores, truth.priors, truth.targets)
