"""Second stage of Faster R-CNN: features, class logits and boxes of regions of interest (RoIs)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hyperfocal import config
from hyperfocal.assign import assign_max_iou, sample_balanced
from hyperfocal.losses import BoxLossConfig, SmoothL1Loss, initial_bias, num_logits
from hyperfocal.models.matched import box_regression_loss
from hyperfocal.ops import DeltaCoder, DeltaWeights
from hyperfocal.types import Target

CANONICAL_SIDE, CANONICAL_STRIDE = 224.0, 16
"""A RoI of 224 pixels is pooled from the level of stride 16, as in ImageNet's classifiers."""


class RoIs(NamedTuple):
    """The sampled RoIs of a batch with their targets.

    Attributes:
        boxes: ``(R, 4)`` xyxy pixels.
        image: ``(R,)`` int64, index in the batch, ascending.
        labels: ``(R,)`` int64, ``0..K-1`` a category, K background.
        gt: ``(R, 4)`` the box of each positive's object; meaningless elsewhere.
    """

    boxes: Tensor
    image: Tensor
    labels: Tensor
    gt: Tensor


class RoIOutputs(NamedTuple):
    """Outputs for R RoIs.

    Attributes:
        logits: ``(R, num_logits)``, as declared by the classification loss.
        deltas: ``(R, K, 4)`` box outputs, or ``(R, 1, 4)`` if they are class-agnostic.
    """

    logits: Tensor
    deltas: Tensor


class RoILosses(NamedTuple):
    """Losses of the sampled RoIs, divided by their number in the step."""

    classification: Tensor
    box: Tensor


class RoIHead(nn.Module):
    """RoIAlign, convolutions, fully connected layers, a classifier and a box regressor.

    A RoI is pooled from one level, ``log2(stride) = floor(4 + log2(sqrt(area) / 224))``, within the
    levels of the pyramid that are used (Lin et al., "Feature Pyramid Networks", CVPR 2017, eq. 1).
    The width of the classifier follows the classification loss (`num_logits`).

    Args:
        in_channels: channels of the pyramid.
        strides: strides of the levels that are pooled from.
        num_classes: K.
        loss: the classification loss.
        settings: the settings.
    """

    @dataclass(frozen=True)
    class Config(config.Config):
        """Settings of `RoIHead`."""

        kind: ClassVar[str] = "roi"

        samples: int = 512
        """Number of RoIs per image that are trained on."""
        positive_fraction: float = 0.25
        """Maximum fraction of positives among them."""
        positive_iou: float = 0.5
        """Minimum IoU of a positive with its object; all others are background."""
        levels: int = 4
        """Number of pyramid levels that RoIs are pooled from, the finest ones."""
        pool: int = 7
        """Height and width of the pooled features."""
        sampling_ratio: int = 0
        """Points per cell of RoIAlign and axis; 0: as many as the size of the RoI needs."""
        aligned: bool = True
        """Shift RoIAlign by half a pixel, so that pixel centres are at half coordinates."""
        conv_layers: int = 0
        """Number of 3x3 convolutions before the fully connected layers."""
        conv_channels: int = 256
        """Channels of these convolutions."""
        conv_norm: Literal["none", "bn"] = "none"
        """Norm after each of them: none, or batch norm (bn)."""
        fc_layers: int = 2
        """Number of fully connected layers."""
        fc_channels: int = 1024
        """Outputs of each of them."""
        class_agnostic: bool = False
        """Predict one box per RoI instead of one per category."""
        prior_probability: float | None = None
        """Initial object probability of a RoI; none: biases start at 0."""
        delta_weights: DeltaWeights = (10.0, 10.0, 5.0, 5.0)
        """Factors on the encoded box deltas x, y, w, h."""
        box_loss: BoxLossConfig = field(default_factory=lambda: SmoothL1Loss.Config(beta=0.0))
        """Box loss."""

        def __post_init__(self) -> None:
            for name in ("samples", "levels", "pool", "conv_channels", "fc_channels"):
                self._require(getattr(self, name) >= 1, name, "at least 1")
            for name in ("sampling_ratio", "conv_layers", "fc_layers"):
                self._require(getattr(self, name) >= 0, name, "at least 0")
            for name in ("positive_fraction", "positive_iou"):
                self._require(0 < getattr(self, name) <= 1, name, "in (0, 1]")
            prior = self.prior_probability
            self._require(prior is None or 0 < prior < 1, "prior_probability", "in (0, 1) or none")
            self._require(all(w > 0 for w in self.delta_weights), "delta_weights", "positive")

        def build(
            self, in_channels: int, strides: Sequence[int], num_classes: int, loss: nn.Module
        ) -> RoIHead:
            """The head for a pyramid with ``in_channels``."""
            return RoIHead(in_channels, strides[: self.levels], num_classes, loss, self)

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        loss: nn.Module,
        settings: Config,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.strides = tuple(strides)
        self.num_classes = num_classes
        self.coder = DeltaCoder(settings.delta_weights)
        self.box_loss = settings.box_loss.build()
        convs: list[nn.Module] = []
        width, has_norm = in_channels, settings.conv_norm == "bn"
        for _ in range(settings.conv_layers):
            convs.append(nn.Conv2d(width, settings.conv_channels, 3, padding=1, bias=not has_norm))
            convs += [nn.BatchNorm2d(settings.conv_channels)] if has_norm else []
            convs.append(nn.ReLU(inplace=True))
            width = settings.conv_channels
        self.convs = nn.Sequential(*convs)
        layers: list[nn.Module] = []
        features = width * settings.pool**2
        for _ in range(settings.fc_layers):
            layers += [nn.Linear(features, settings.fc_channels), nn.ReLU(inplace=True)]
            features = settings.fc_channels
        self.layers = nn.Sequential(*layers)
        self.cls_logits = nn.Linear(features, num_logits(loss, num_classes))
        self.num_boxes = 1 if settings.class_agnostic else num_classes
        self.box_deltas = nn.Linear(features, 4 * self.num_boxes)
        nn.init.normal_(self.cls_logits.weight, std=0.01)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        for layer in (self.cls_logits, self.box_deltas):
            nn.init.zeros_(layer.bias)
        if settings.prior_probability is not None:
            bias = initial_bias(loss, num_classes, settings.prior_probability)
            self.cls_logits.bias.data.copy_(bias)

    def forward(self, levels: Sequence[Tensor], boxes: Tensor, image: Tensor) -> RoIOutputs:
        """Outputs for R RoIs.

        Args:
            levels: the pyramid's maps ``(B, C, H, W)``.
            boxes: ``(R, 4)`` xyxy pixels.
            image: ``(R,)`` index of each RoI's image in the batch.
        """
        features = self.layers(self.convs(self.pooled(levels, boxes, image)).flatten(1))
        deltas = self.box_deltas(features)
        return RoIOutputs(self.cls_logits(features), deltas.view(len(boxes), self.num_boxes, 4))

    def pooled(self, levels: Sequence[Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """Features ``(R, C, pool, pool)`` of RoIs, each from one level."""
        from torchvision.ops import roi_align

        rows = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
        level_of = self.level_of(boxes)
        settings, parts, order = self.settings, [], []
        for n, (level, stride) in enumerate(zip(levels, self.strides, strict=False)):
            at = (level_of == n).nonzero().squeeze(1)
            size, ratio = settings.pool, settings.sampling_ratio
            part = roi_align(
                level, rows[at].to(level.dtype), size, 1 / stride, ratio, settings.aligned
            )
            parts.append(part)
            order.append(at)
        return torch.cat(parts)[torch.cat(order).argsort()]

    def level_of(self, boxes: Tensor) -> Tensor:
        """``(R,)`` int64, the level that each RoI is pooled from."""
        side = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        scale = CANONICAL_STRIDE / CANONICAL_SIDE * side
        level = (scale.log2() + 1e-6).floor() - math.log2(self.strides[0])
        return level.clamp(0, len(self.strides) - 1).long()

    # ------------------------------------------------------------------- training

    @torch.no_grad()
    def sample(
        self,
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        generators: Sequence[torch.Generator],
    ) -> RoIs:
        """Sample RoIs from proposals and the ground-truth boxes themselves.

        Args:
            proposals: ``(R, 4)`` of each image.
            targets: the targets of the batch.
            generators: random generator of each image.
        """
        settings, k, parts = self.settings, self.num_classes, []
        for b, (boxes, target) in enumerate(zip(proposals, targets, strict=True)):
            boxes = torch.cat([boxes, target.boxes])
            iou = settings.positive_iou
            labels, row = assign_max_iou(boxes, target, k, iou, iou, "off")
            chosen = sample_balanced(
                labels, k, settings.samples, settings.positive_fraction, generators[b]
            )
            gt = target.boxes[row[chosen]] if len(target.boxes) else boxes[chosen]
            image = torch.full_like(chosen, b)
            parts.append(RoIs(boxes[chosen], image, labels[chosen], gt))
        return RoIs(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def losses(
        self, outputs: RoIOutputs, rois: RoIs, loss: nn.Module, divisor: Tensor
    ) -> RoILosses:
        """The losses of sampled RoIs.

        Args:
            outputs: for the RoIs.
            rois: their targets.
            loss: the classification loss.
            divisor: scalar, number of sampled RoIs of the step.
        """
        classification: Tensor = loss(outputs.logits, rois.labels, divisor)
        positive = (rois.labels < self.num_classes).nonzero().squeeze(1)
        column = rois.labels[positive] if not self.settings.class_agnostic else 0
        deltas = outputs.deltas[positive, column].float()
        weight = deltas.new_ones(len(deltas)) / divisor
        box = box_regression_loss(
            self.box_loss,
            self.coder,
            deltas,
            rois.boxes[positive],
            rois.gt[positive],
            weight=weight,
        )
        return RoILosses(classification, box)

    # ------------------------------------------------------------------- inference

    def decode(self, outputs: RoIOutputs, boxes: Tensor, roi: Tensor, labels: Tensor) -> Tensor:
        """Boxes ``(N, 4)`` of selected pairs of RoI and category.

        Args:
            outputs: for R RoIs.
            boxes: ``(R, 4)`` the RoIs.
            roi: ``(N,)`` index of the RoI.
            labels: ``(N,)`` category.
        """
        column = 0 if self.settings.class_agnostic else labels
        return self.coder.decode(outputs.deltas[roi, column].float(), boxes[roi])
