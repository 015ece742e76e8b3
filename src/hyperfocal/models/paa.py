"""PAA (Kim and Lee, "Probabilistic Anchor Assignment with IoU Prediction", ECCV 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from hyperfocal.assign import PAAAssigner
from hyperfocal.losses import giou_loss, sigmoid_focal_loss
from hyperfocal.models.matched import Matched
from hyperfocal.models.quality import QualityBranch
from hyperfocal.models.quality_config import Parts, QualityDetectorConfig
from hyperfocal.models.quality_detector import QualityDetector
from hyperfocal.ops import DeltaCoder, DeltaWeights
from hyperfocal.types import Assignment, CategoryCounts, Priors


class PAA(QualityDetector):
    """ATSS's anchors, positive where the network does well already; detections move by a vote.

    A candidate's cost is focal loss (α 1/4, γ 2, over all categories) plus GIoU loss, whatever
    the detector trains with: losses with memory must not see these passes.
    """

    @dataclass(frozen=True)
    class Config(QualityDetectorConfig):
        """Settings of `PAA`."""

        kind: ClassVar[str] = "paa"

        assigner: PAAAssigner.Config = field(default_factory=PAAAssigner.Config)
        """Which anchors answer for which object."""
        box_weight: float = 1.3
        """Factor on the box loss."""
        delta_weights: DeltaWeights = (10.0, 10.0, 5.0, 5.0)
        """Factors on the encoded box deltas x, y, w, h."""
        quality: QualityBranch = field(
            default_factory=lambda: QualityBranch(target="iou", weight=0.5)
        )
        """The IoU branch, and the score that it makes."""
        voting: float | None = 0.025
        """Spread of the score voting after suppression; none: no vote."""

        def __post_init__(self) -> None:
            super().__post_init__()
            self._require(all(w > 0 for w in self.delta_weights), "delta_weights", "positive")
            self._require(self.voting is None or self.voting > 0, "voting", "positive, or none")

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> PAA:
            """The detector for K categories, in channels_last memory; see `RetinaNet`'s."""
            coder = DeltaCoder(self.delta_weights)
            assigner = self.assigner.build(num_classes)
            return PAA(self.parts(num_classes, counts, assigner, coder), self.voting)

    assigner: PAAAssigner

    def __init__(self, parts: Parts, voting: float | None = 0.025) -> None:
        super().__init__(parts)
        self._voting = voting

    @property
    def known_beforehand(self) -> bool:
        """See `QualityDetector`: never."""
        return False

    @property
    def voting(self) -> float | None:
        """Spread of the score voting, None for none."""
        return self._voting

    @torch.no_grad()
    def choose(
        self, candidates: Assignment, matched: Matched, priors: Priors, cls_maps: Sequence[Tensor]
    ) -> Assignment:
        """The cheap candidates of each object; the logits of one image exist at a time."""
        labels = candidates.labels[matched.image, matched.prior]
        costs = []
        for image in range(len(candidates.labels)):
            own = matched.image == image
            logits = self.head.classify_image(cls_maps, image)[matched.prior[own]]
            costs.append(sigmoid_focal_loss(logits.float(), labels[own]).sum(dim=1))
        boxes = self.coder.decode(matched.deltas, matched.anchors)
        cost = torch.cat(costs) + giou_loss(boxes, matched.boxes)
        return self.assigner.choose(candidates, cost, priors)
