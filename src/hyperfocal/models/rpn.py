"""Region proposal network (Ren et al., "Faster R-CNN", NeurIPS 2015), on a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperfocal import config
from hyperfocal.assign import AssignerConfig, MaxIoUAssigner, sample_balanced, sample_size
from hyperfocal.losses import BoxLossConfig, SmoothL1Loss
from hyperfocal.models.head import join_levels
from hyperfocal.models.matched import box_regression_loss
from hyperfocal.ops import DeltaCoder, clip_boxes, nms, stable_topk
from hyperfocal.types import Assignment, Priors, Target

OBJECT, NO_OBJECT = 0, 1
"""Labels of anchors: one category, and the background."""


class RPNOutputs(NamedTuple):
    """Outputs of the network for all A anchors.

    Attributes:
        objectness: ``(B, A)`` logits.
        deltas: ``(B, A, 4)`` box outputs.
    """

    objectness: Tensor
    deltas: Tensor


class RPNLosses(NamedTuple):
    """Sums over the sampled anchors of a batch, divided by their number in the step.

    Attributes:
        classification: scalar, binary cross entropy of objectness.
        box: scalar, box loss of the positives.
    """

    classification: Tensor
    box: Tensor


class RPN(nn.Module):
    """Objectness and a box for each anchor, and the proposals selected from them.

    Convolutions of 3x3 with ReLU, shared by all levels, followed by two 1x1 convolutions.

    Args:
        in_channels: channels of the pyramid.
        num_anchors: anchors per location.
        settings: the settings.
    """

    @dataclass(frozen=True)
    class Config(config.Config):
        """Settings of `RPN`."""

        kind: ClassVar[str] = "rpn"

        depth: int = 1
        """Number of 3x3 convolutions."""
        assigner: AssignerConfig = field(
            default_factory=lambda: MaxIoUAssigner.Config(0.7, 0.3, low_quality="any")
        )
        """Assignment of anchors to objects."""
        samples: int = 256
        """Number of anchors per image that are trained on."""
        positive_fraction: float = 0.5
        """Maximum fraction of positives among them."""
        box_loss: BoxLossConfig = field(default_factory=lambda: SmoothL1Loss.Config(beta=0.0))
        """Box loss."""
        train_pre_nms: int = 2000
        """Maximum number of proposals per level before NMS in training."""
        train_proposals: int = 1000
        """Maximum number of proposals per image in training."""
        pre_nms: int = 1000
        """Maximum number of proposals per level before NMS in inference."""
        proposals: int = 1000
        """Maximum number of proposals per image in inference."""
        nms_iou: float = 0.7
        """A proposal is dropped if its IoU with a better one of its level is greater than this."""

        def __post_init__(self) -> None:
            for name in ("depth", "samples", "train_pre_nms", "train_proposals", "pre_nms",
                         "proposals"):  # fmt: skip
                self._require(getattr(self, name) >= 1, name, "at least 1")
            self._require(0 < self.positive_fraction <= 1, "positive_fraction", "in (0, 1]")
            self._require(0 <= self.nms_iou <= 1, "nms_iou", "in [0, 1]")

        def build(self, in_channels: int, num_anchors: int) -> RPN:
            """The network for a pyramid with ``in_channels``."""
            return RPN(in_channels, num_anchors, self)

    def __init__(self, in_channels: int, num_anchors: int, settings: Config) -> None:
        super().__init__()
        self.settings = settings
        layers: list[nn.Module] = []
        for _ in range(settings.depth):
            layers += [nn.Conv2d(in_channels, in_channels, 3, padding=1), nn.ReLU(inplace=True)]
        self.tower = nn.Sequential(*layers)
        self.objectness = nn.Conv2d(in_channels, num_anchors, 1)
        self.deltas = nn.Conv2d(in_channels, 4 * num_anchors, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.assigner = settings.assigner.build(1)
        self.box_loss = settings.box_loss.build()
        self.coder = DeltaCoder()

    def forward(self, levels: Sequence[Tensor]) -> RPNOutputs:
        """Outputs for pyramid maps ``(B, C, H, W)``, in the order of `Priors`."""
        towers = [self.tower(level) for level in levels]
        objectness = join_levels([self.objectness(t) for t in towers], 1).squeeze(2)
        return RPNOutputs(objectness, join_levels([self.deltas(t) for t in towers], 4))

    # ------------------------------------------------------------------- training

    def assign(self, priors: Priors, targets: Sequence[Target]) -> Assignment:
        """Assignment of the anchors: `OBJECT`, `NO_OBJECT` or ignored."""
        objects = tuple(Target(t.boxes, torch.zeros_like(t.labels)) for t in targets)
        found: Assignment = self.assigner(priors, objects)
        return found

    def counts(self, assignment: Assignment) -> Tensor:
        """``(B,)`` number of anchors sampled in each image; independent of the random numbers."""
        settings = self.settings
        return sample_size(
            assignment.labels, NO_OBJECT, settings.samples, settings.positive_fraction
        )

    def losses(
        self,
        outputs: RPNOutputs,
        priors: Priors,
        assignment: Assignment,
        targets: Sequence[Target],
        divisor: Tensor,
        generators: Sequence[torch.Generator],
    ) -> RPNLosses:
        """The losses of randomly sampled anchors.

        Args:
            outputs: of the network.
            priors: the A anchors.
            assignment: result of `assign`.
            targets: the targets of the batch.
            divisor: scalar, number of sampled anchors of the step.
            generators: random generator of each image.
        """
        settings, logits, wanted = self.settings, [], []
        deltas, anchors, boxes = [], [], []
        for b, target in enumerate(targets):
            labels = assignment.labels[b]
            chosen = sample_balanced(
                labels, NO_OBJECT, settings.samples, settings.positive_fraction, generators[b]
            )
            logits.append(outputs.objectness[b, chosen])
            wanted.append(labels[chosen] == OBJECT)
            positive = chosen[wanted[-1]]
            deltas.append(outputs.deltas[b, positive])
            anchors.append(priors.boxes[positive])
            boxes.append(target.boxes[assignment.gt_index[b, positive]])
        classification = F.binary_cross_entropy_with_logits(
            torch.cat(logits).float(), torch.cat(wanted).float(), reduction="sum"
        )
        got = torch.cat(deltas).float()
        weight = got.new_ones(len(got)) / divisor
        box = box_regression_loss(
            self.box_loss, self.coder, got, torch.cat(anchors), torch.cat(boxes), weight=weight
        )
        return RPNLosses(classification / divisor, box)

    # ------------------------------------------------------------------- proposals

    @torch.no_grad()
    def propose(
        self, outputs: RPNOutputs, priors: Priors, valid_hw: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Proposals ``(R, 4)`` xyxy of each image, best first.

        Per level the anchors with the highest objectness are decoded, clipped to the image, and
        suppressed; the best of all levels are kept.

        Args:
            outputs: of the network.
            priors: the A anchors.
            valid_hw: height and width of each image without padding.
        """
        settings, training = self.settings, self.training
        pre_nms = settings.train_pre_nms if training else settings.pre_nms
        most = settings.train_proposals if training else settings.proposals
        level_of = torch.repeat_interleave(
            torch.arange(len(priors.level_sizes)), torch.tensor(priors.level_sizes)
        ).to(priors.boxes.device)
        starts = [sum(priors.level_sizes[:n]) for n in range(len(priors.level_sizes))]
        found = []
        for logits, deltas, hw in zip(
            outputs.objectness.float(), outputs.deltas, valid_hw, strict=True
        ):
            parts = torch.split(logits, list(priors.level_sizes))
            chosen = torch.cat(
                [stable_topk(p, pre_nms) + start for p, start in zip(parts, starts, strict=True)]
            )
            boxes = self.coder.decode(deltas[chosen].float(), priors.boxes[chosen])
            boxes = clip_boxes(boxes, hw)
            full = ((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(dim=1)
            boxes, scores, level = boxes[full], logits[chosen][full], level_of[chosen][full]
            found.append(boxes[nms(boxes, scores, level, settings.nms_iou, most)])
        return found


LEAST_SIDE = 1e-3
"""Minimum width and height of a proposal in pixels."""
