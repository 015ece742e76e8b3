"""The dense head: two towers of convolutions, shared by all levels, and their predictions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hyperfocal import config
from hyperfocal.models.layers import GroupNorm
from hyperfocal.models.matched import Where

GROUPS = 32
"""Number of groups of group norm."""


class TowerFeatures(NamedTuple):
    """Inputs of the last convolutions of a head, one ``(B, C, H, W)`` map per level."""

    cls: tuple[Tensor, ...]
    box: tuple[Tensor, ...]


QualityTower = Literal["box", "class"]
"""The tower of a quality branch."""


@dataclass(frozen=True)
class HeadOutput:
    """Raw outputs of a dense head, levels concatenated in the order of `Priors`.

    Attributes:
        cls: ``(B, A, K)`` classification logits.
        box: ``(B, A, 4)`` box regression, in the detector's box coding.
        quality: ``(B, A)`` centerness or IoU logits, or None.
    """

    cls: Tensor
    box: Tensor
    quality: Tensor | None = None


class BoxOutputs(NamedTuple):
    """Outputs of a head for P selected priors.

    Attributes:
        box: ``(P, 4)`` float32 box values.
        quality: ``(P,)`` float32 quality logits; None without a branch on the box tower.
    """

    box: Tensor
    quality: Tensor | None


class Head(nn.Module):
    """Base class of dense heads: two towers and their predictions on each level.

    The layers of a tower are shared by all levels, or are a list with one item per level
    (`of_level`).

    Attributes:
        num_classes: K.
        quality_tower: the tower of the quality branch; None: no branch.
        cls_tower: layers before the classification logits.
        box_tower: layers before the box values.
        cls_logits: convolution with one output per anchor and category (channel a·K + j is that of
            anchor a and category j).
        box_deltas: convolution with four outputs per anchor.
        quality_logits: convolution with one output per anchor, or None.
        level_scales: a factor on the box values of each level, or None.
    """

    partial: ClassVar[bool] = False
    """Whether a tower gives the same result for a part of the images and levels: not with batch
    norms in training."""

    num_classes: int
    quality_tower: QualityTower | None
    cls_tower: nn.Module
    box_tower: nn.Module
    cls_logits: nn.Module
    box_deltas: nn.Module
    quality_logits: nn.Module | None
    level_scales: nn.Parameter | None

    def towers(self, features: Sequence[Tensor]) -> TowerFeatures:
        """Both towers on all levels."""
        return TowerFeatures(self.cls_maps(features), self.box_maps(features))

    def of_level(self, part: nn.Module, level: int) -> nn.Module:
        """The layers of one level."""
        return part[level] if isinstance(part, nn.ModuleList) else part

    @property
    def classifiers(self) -> dict[str, nn.Conv2d]:
        """Convolutions that predict the classification logits, by name: one for all levels, or one
        per level."""
        layers: Any = self.cls_logits
        if isinstance(layers, nn.Conv2d):
            return {"cls_logits": layers}
        return {f"cls_logits.{n}": layer for n, layer in enumerate(layers)}

    def by_classifier(
        self, cls_maps: Sequence[Tensor]
    ) -> Iterator[tuple[Sequence[Tensor], nn.Conv2d]]:
        """The classification tower's maps with their classifier: all levels, or each by itself."""
        layers = list(self.classifiers.values())
        if len(layers) == 1:
            yield cls_maps, layers[0]
        else:
            yield from (([level], layer) for level, layer in zip(cls_maps, layers, strict=True))

    @property
    def num_anchors(self) -> int:
        """Anchors per location."""
        return next(iter(self.classifiers.values())).out_channels // self.num_classes

    def cls_maps(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The classification tower on all levels."""
        return tuple(self.of_level(self.cls_tower, n)(m) for n, m in enumerate(features))

    def box_maps(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The box tower on all levels."""
        return tuple(self.of_level(self.box_tower, n)(m) for n, m in enumerate(features))

    def classify(self, features: Sequence[Tensor]) -> Tensor:
        """Logits ``(B, A, K)`` from the classification tower's maps, in the order of `Priors`."""
        maps = [self.of_level(self.cls_logits, n)(m) for n, m in enumerate(features)]
        return join_levels(maps, self.num_classes)

    def classify_level(self, feature: Tensor, level: int) -> Tensor:
        """Logits ``(B, HWA, K)`` of one level from the classification tower's map."""
        return join_levels([self.of_level(self.cls_logits, level)(feature)], self.num_classes)

    def classify_image(self, features: Sequence[Tensor], image: int) -> Tensor:
        """Logits ``(A, K)`` of one image of the batch, to save memory."""
        return self.classify([level[image : image + 1] for level in features])[0]

    def regress(self, features: Sequence[Tensor]) -> Tensor:
        """Box values ``(B, A, 4)`` from the box tower's maps, in the order of `Priors`."""
        return join_levels([self._boxes(level, n) for n, level in enumerate(features)], 4)

    def assess(self, towers: TowerFeatures) -> Tensor | None:
        """Quality logits ``(B, A)`` from the branch's tower; None without the branch."""
        if self.quality_logits is None:
            return None
        maps = towers.box if self.quality_tower == "box" else towers.cls
        outputs = [self.of_level(self.quality_logits, n)(m) for n, m in enumerate(maps)]
        return join_levels(outputs, 1).squeeze(2)

    def _boxes(self, level: Tensor, n: int) -> Tensor:
        values: Tensor = self.of_level(self.box_deltas, n)(level)
        return values if self.level_scales is None else values * self.level_scales[n]

    def regress_at(self, features: Sequence[Tensor], wanted: Tensor) -> Tensor:
        """The box values ``(P, 4)`` of `box_outputs_at`."""
        return self.box_outputs_at(features, wanted).box

    def box_outputs_at(
        self, features: Sequence[Tensor], wanted: Tensor, where: Where | None = None
    ) -> BoxOutputs:
        """Box values, and quality from the box tower, of selected priors, from the pyramid's maps.

        A box loss only needs the positive priors, and most levels of most images have none: the box
        tower is neither run nor differentiated for these. Group norm gives the same result, because
        it normalises each image and level separately. On a GPU the tower is run on everything,
        which takes less time than finding the levels that are needed.

        Args:
            features: ``(B, C, H, W)`` pyramid maps.
            wanted: ``(B, A)`` bool.
            where: the indices of ``wanted``, if known.

        Returns:
            P rows in the order of ``wanted.nonzero()``. If P is 0, empty tensors that depend on all
            parameters.
        """
        if wanted.is_cuda or not self.partial:
            if where is None:
                where = Where(*wanted.nonzero(as_tuple=True))
            return self._from_all_box_outputs(features, where)
        per_location = self.num_anchors
        sizes = [level.shape[2] * level.shape[3] * per_location for level in features]
        masks = torch.split(wanted, sizes, dim=1)
        # The images needed, by level: the only synchronisation with the device.
        busy = torch.stack([mask.any(dim=1) for mask in masks]).nonzero().tolist()
        rows, order = [], []
        for n, (level, mask) in enumerate(zip(features, masks, strict=True)):
            images = [image for at, image in busy if at == n]
            if not busy and level is features[-1]:
                images = [0]
            if images:
                chosen = _take(level, images)
                tower = self.of_level(self.box_tower, n)(chosen)
                maps = [join_levels([self._boxes(tower, n)], 4)]
                if self.quality_logits is not None and self.quality_tower == "box":
                    maps.append(join_levels([self.of_level(self.quality_logits, n)(tower)], 1))
                rows.append(torch.cat([m[mask[images]].float() for m in maps], dim=1))
                first = torch.tensor(images, device=mask.device) * wanted.shape[1] + sum(sizes[:n])
                within = mask[images].nonzero()
                order.append(first[within[:, 0]] + within[:, 1])
        values = torch.cat(rows)[torch.cat(order).argsort()]
        if self.level_scales is not None:  # levels that weren't run have zero gradient
            values = values + 0 * self.level_scales.sum()
        return BoxOutputs(values[:, :4], values[:, 4] if values.shape[1] == 5 else None)

    def _from_all_box_outputs(self, features: Sequence[Tensor], where: Where) -> BoxOutputs:
        """The result of `box_outputs_at`, with the box tower run on everything."""
        towers = self.box_maps(features)

        # Neither masks nor indexing, because their backward passes sort all indices.
        def chosen(maps: list[Tensor], width: int) -> Tensor:
            joined = join_levels(maps, width)
            index = where.image * joined.shape[1] + where.prior
            return joined.flatten(0, 1).index_select(0, index).float()

        box = chosen([self._boxes(tower, n) for n, tower in enumerate(towers)], 4)
        if self.quality_logits is None or self.quality_tower != "box":
            return BoxOutputs(box, None)
        outputs = [self.of_level(self.quality_logits, n)(m) for n, m in enumerate(towers)]
        quality = chosen(outputs, 1)
        return BoxOutputs(box, quality.squeeze(1))

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """All outputs, for pyramid maps ``(B, C, H, W)``."""
        towers = self.towers(features)
        return HeadOutput(self.classify(towers.cls), self.regress(towers.box), self.assess(towers))


@dataclass(frozen=True)
class HeadConfig(config.Config, role=True):
    """Settings of a dense head."""

    prior_probability: float = 0.01
    """Initial object probability of each anchor."""

    def __post_init__(self) -> None:
        self._require(0 < self.prior_probability < 1, "prior_probability", "between 0 and 1")

    @abstractmethod
    def build(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        num_levels: int = 5,
        quality: QualityTower | None = None,
    ) -> Head:
        """The head for a pyramid with ``in_channels`` and ``num_levels``."""


class DenseHead(Head):
    """K sigmoid logits and 4 class-agnostic box values for each anchor of each level.

    Each tower has ``depth`` blocks of 3x3 convolution, norm and ReLU, followed by a 3x3 convolution
    that predicts. The classification bias is initialised to ``-log((1 - π) / π)``, so that the
    initial probability of each anchor is π (focal-loss paper, section 3.3).

    Towers and predictions are separate methods, because with many categories the last convolution
    and its loss are computed together, without keeping all logits in memory.

    A head with a quality branch also gives one logit per prior, from either tower.

    Args:
        in_channels: channels of the pyramid.
        num_anchors: anchors per location.
        num_classes: K.
        num_levels: number of levels.
        quality: the tower of the quality branch; None: no branch.
        depth, channels, norm, prior_probability, tower_bias, level_scale: see `Config`.
    """

    partial: ClassVar[bool] = True

    @dataclass(frozen=True)
    class Config(HeadConfig):
        """Settings of `DenseHead`."""

        depth: int = 4
        """Number of 3x3 convolutions in each tower."""
        channels: int | None = None
        """Channels of the towers; none: the pyramid's."""
        norm: Literal["none", "gn"] = "none"
        """Norm after each convolution: none, or group norm with 32 groups (gn)."""
        tower_bias: bool = False
        """Whether convolutions followed by a norm have a bias (the others always do)."""
        level_scale: bool = False
        """Learn a factor on the box values of each level."""

        kind: ClassVar[str] = "dense"
        renamed: ClassVar[dict[str, str]] = {"prior": "prior_probability"}

        def __post_init__(self) -> None:
            self._require(self.depth >= 0, "depth", "at least 0")
            self._require(self.channels is None or self.channels >= 1, "channels", "at least 1")
            super().__post_init__()

        def build(
            self,
            in_channels: int,
            num_anchors: int,
            num_classes: int,
            num_levels: int = 5,
            quality: QualityTower | None = None,
        ) -> DenseHead:
            """The head for a pyramid with ``in_channels`` and ``num_levels``."""
            channels = self.channels or in_channels
            # With one channel per group, a map of a single location has no variance.
            if self.norm == "gn" and (channels % GROUPS or channels < 2 * GROUPS):
                self._require(
                    False,
                    "norm",
                    f"none with towers of {channels} channels: {GROUPS} groups need a multiple of "
                    f"{GROUPS}, at least {2 * GROUPS}",
                )
            return DenseHead(
                in_channels,
                num_anchors,
                num_classes,
                **self.arguments(channels=channels, num_levels=num_levels, quality=quality),
            )

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        depth: int = 4,
        channels: int = 256,
        norm: Literal["none", "gn"] = "none",
        prior_probability: float = 0.01,
        tower_bias: bool = False,
        level_scale: bool = False,
        num_levels: int = 5,
        quality: QualityTower | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.quality_tower = quality
        bias = tower_bias or norm == "none"
        self.cls_tower = _tower(in_channels, channels, depth, norm, bias)
        self.box_tower = _tower(in_channels, channels, depth, norm, bias)
        width = channels if depth else in_channels
        self.cls_logits = nn.Conv2d(width, num_anchors * num_classes, 3, padding=1)
        self.box_deltas = nn.Conv2d(width, num_anchors * 4, 3, padding=1)
        self.quality_logits = nn.Conv2d(width, num_anchors, 3, padding=1) if quality else None
        self.level_scales = nn.Parameter(torch.ones(num_levels)) if level_scale else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        start_at(self.cls_logits, prior_probability)


def join_levels(maps: Sequence[Tensor], width: int) -> Tensor:
    """Maps ``(B, A·width, H, W)`` of all levels as one ``(B, ΣHWA, width)``.

    A map in channels_last memory already has this layout; only joining several levels copies.
    """
    rows = [m.permute(0, 2, 3, 1).reshape(len(m), -1, width) for m in maps]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def _take(level: Tensor, images: list[int]) -> Tensor:
    """Selected images of a map, in its memory format (which indexing would lose)."""
    if len(images) == len(level):
        return level
    return torch.cat([level[i : i + 1] for i in images])


def _tower(in_channels: int, channels: int, depth: int, norm: str, bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Conv2d(channels if i else in_channels, channels, 3, padding=1, bias=bias))
        if norm == "gn":
            layers.append(GroupNorm(GROUPS, channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def start_at(layers: nn.Module, probability: float) -> None:
    """Set the bias of all convolutions to the logit of a probability."""
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.constant_(layer.bias, -math.log((1 - probability) / probability))
