"""PAA (Kim and Lee, "Probabilistic Anchor Assignment with IoU Prediction", ECCV 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hyperfocal.assign import AssignerConfig, CostAssigner, PAAAssigner
from hyperfocal.losses import giou_loss, sigmoid_focal_loss
from hyperfocal.models.criterion import ImageTruth, Positives
from hyperfocal.models.dense import NOTHING_BUILT, DenseDetector, DenseParts, QualityConfig
from hyperfocal.models.head import Head
from hyperfocal.models.quality import QualityBranch
from hyperfocal.ops import BoxCoder, DeltaCoder, DeltaWeights
from hyperfocal.types import Assignment, CategoryCounts, ConfigError


class PAA(DenseDetector):
    """Anchors as in ATSS, assigned by their current loss, an IoU branch and score voting.

    Args:
        num_classes: K.
        counts: images and boxes per category, for losses that weight categories.
        config: the settings; default: `PAA.Config()`.
        settings: settings that override the config's, see `DenseConfig.with_settings`.

    Examples:
        >>> import hyperfocal, torch
        >>> from hyperfocal.models import Backbone
        >>> small = Backbone.Config("test_resnet", pretrained=False)
        >>> model = hyperfocal.PAA(num_classes=3, backbone=small)
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
        """Settings of `PAA`."""

        kind: ClassVar[str] = "paa"

        assigner: AssignerConfig = field(default_factory=PAAAssigner.Config)
        """Assignment of anchors to objects."""
        box_weight: float = 1.3
        """Factor on the box loss."""
        delta_weights: DeltaWeights = (10.0, 10.0, 5.0, 5.0)
        """Factors on the encoded box deltas x, y, w, h."""
        quality: QualityBranch = field(
            default_factory=lambda: QualityBranch(target="iou", weight=0.5)
        )
        """IoU branch, and how it enters the score."""
        voting: float | None = 0.025
        """Spread of the score voting after NMS; none: no voting."""

        def __post_init__(self) -> None:
            super().__post_init__()
            self._require(all(w > 0 for w in self.delta_weights), "delta_weights", "positive")
            self._require(self.voting is None or self.voting > 0, "voting", "positive, or none")

        def parts(
            self,
            num_classes: int,
            counts: CategoryCounts | None = None,
            built: Mapping[str, nn.Module] = NOTHING_BUILT,
        ) -> DenseParts:
            """See `DenseConfig.compose`."""
            assigner = built.get("assigner") or self.assigner.build(num_classes)
            if not isinstance(assigner, CostAssigner):
                raise ConfigError(
                    f"paa needs an assigner that selects candidates by their cost (a "
                    f"CostAssigner), but {type(assigner).__name__} isn't one; use the assigner paa"
                )
            coder = DeltaCoder(self.delta_weights)
            return self.compose(
                num_classes,
                counts,
                built,
                assigner=assigner,
                coder=coder,
                quality=self.quality,
                refine=RefineByCost(assigner, coder),
                voting=self.voting,
            )

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> PAA:
            """The detector for K categories, in channels_last memory; see `RetinaNet`'s."""
            return PAA(num_classes, counts=counts, config=self)

    def __init__(
        self,
        num_classes: int,
        *,
        counts: CategoryCounts | None = None,
        config: PAA.Config | None = None,
        **settings: Any,
    ) -> None:
        chosen, built = (config or PAA.Config()).with_settings(settings)
        super().__init__(chosen.parts(num_classes, counts, built))


@dataclass(frozen=True)
class RefineByCost:
    """Selects each object's candidates with a low cost (section 3.2).

    A candidate's cost is focal loss (α 1/4, γ 2, over all categories) plus GIoU loss, independent
    of the training loss, because these passes mustn't change the state of losses with memory.

    Attributes:
        assigner: selects candidates by their cost.
        coder: decodes boxes.
    """

    assigner: CostAssigner
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
        labels = assignment.labels[matched.image, matched.prior]
        costs = []
        for image in range(len(assignment.labels)):
            own = matched.image == image
            logits = head.classify_image(cls_maps, image)[matched.prior[own]]
            costs.append(sigmoid_focal_loss(logits.float(), labels[own]).sum(dim=1))
        boxes = self.coder.decode(matched.deltas, matched.anchors)
        cost = torch.cat(costs) + giou_loss(boxes, matched.boxes)
        return self.assigner.choose(assignment, cost, truth.priors)
