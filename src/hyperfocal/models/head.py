"""The dense head: two towers of convolutions shared over the levels, and a prediction from each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hyperfocal import config
from hyperfocal.types import HeadOutput

GROUPS = 32
"""Groups of group norm."""


class TowerFeatures(NamedTuple):
    """What the last convolutions of a head see, one ``(B, C, H, W)`` map a level."""

    cls: tuple[Tensor, ...]
    box: tuple[Tensor, ...]


class DenseHead(nn.Module):
    """K sigmoid logits and 4 class-agnostic box values for every anchor of every level.

    Each tower is ``depth`` times (3x3 convolution, norm, ReLU); a last 3x3 convolution predicts.
    The bias of the classification starts at ``-log((1 - π) / π)``, so that every anchor starts out
    with probability π of being an object (focal-loss paper, section 3.3).

    The towers and the predictions are apart, because with many categories the last convolution
    and its loss are better computed together, without ever holding all logits.

    Args:
        in_channels: channels of the pyramid.
        num_anchors: anchors per location.
        num_classes: K.
        depth: convolutions in a tower.
        channels: channels of the towers.
        norm: ``none`` or ``gn`` (group norm, 32 groups).
        prior: π.
    """

    @dataclass(frozen=True)
    class Config(config.Config):
        """Settings of `DenseHead`."""

        depth: int = 4
        """3x3 convolutions in each tower."""
        channels: int | None = None
        """Channels of the towers; none: the pyramid's."""
        norm: Literal["none", "gn"] = "none"
        """After each convolution: nothing, or group norm with 32 groups."""
        prior: float = 0.01
        """Probability of an object that every anchor starts with."""

        kind: ClassVar[str] = "dense"

        def __post_init__(self) -> None:
            self._require(self.depth >= 0, "depth", "at least 0")
            self._require(self.channels is None or self.channels >= 1, "channels", "at least 1")
            self._require(0 < self.prior < 1, "prior", "between 0 and 1")

        def build(self, in_channels: int, num_anchors: int, num_classes: int) -> DenseHead:
            """The head over a pyramid of ``in_channels``."""
            channels = self.channels or in_channels
            # With one channel a group a map of a single location has no variance.
            if self.norm == "gn" and (channels % GROUPS or channels < 2 * GROUPS):
                self._require(
                    False,
                    "norm",
                    f"none with towers of {channels} channels: {GROUPS} groups need a multiple of "
                    f"{GROUPS}, at least {2 * GROUPS}",
                )
            return DenseHead(
                in_channels, num_anchors, num_classes, self.depth, channels, self.norm, self.prior
            )

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        depth: int = 4,
        channels: int = 256,
        norm: Literal["none", "gn"] = "none",
        prior: float = 0.01,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_tower = _tower(in_channels, channels, depth, norm)
        self.box_tower = _tower(in_channels, channels, depth, norm)
        width = channels if depth else in_channels
        self.cls_logits = nn.Conv2d(width, num_anchors * num_classes, 3, padding=1)
        self.box_deltas = nn.Conv2d(width, num_anchors * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        assert self.cls_logits.bias is not None
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior) / prior))

    def towers(self, features: Sequence[Tensor]) -> TowerFeatures:
        """Both towers on every level."""
        return TowerFeatures(
            tuple(self.cls_tower(level) for level in features),
            tuple(self.box_tower(level) for level in features),
        )

    def classify(self, features: Sequence[Tensor]) -> Tensor:
        """Logits ``(B, A, K)`` from the classification tower's maps, in the order of `Priors`."""
        return join_levels([self.cls_logits(level) for level in features], self.num_classes)

    def regress(self, features: Sequence[Tensor]) -> Tensor:
        """Box values ``(B, A, 4)`` from the box tower's maps, in the order of `Priors`."""
        return join_levels([self.box_deltas(level) for level in features], 4)

    def regress_at(self, features: Sequence[Tensor], wanted: Tensor) -> Tensor:
        """Box values of a few priors, from the pyramid's maps.

        A box loss needs the positive priors alone, and most levels of most images have none: their
        part of the box tower is neither run nor differentiated. Group norm doesn't mind, as it
        sees one image and level at a time.

        Args:
            features: ``(B, C, H, W)`` pyramid maps.
            wanted: ``(B, A)`` bool.

        Returns:
            ``(P, 4)`` float32, in the order of ``wanted.nonzero()``. Without any, an empty tensor
            that still connects to all parameters.
        """
        per_location = self.box_deltas.out_channels // 4
        sizes = [level.shape[2] * level.shape[3] * per_location for level in features]
        masks = torch.split(wanted, sizes, dim=1)
        # Which images, by level: the only wait for the device.
        busy = torch.stack([mask.any(dim=1) for mask in masks]).nonzero().tolist()
        rows, order = [], []
        for n, (level, mask) in enumerate(zip(features, masks, strict=True)):
            images = [image for at, image in busy if at == n]
            if not busy and level is features[-1]:
                images = [0]
            if images:
                chosen = _take(level, images)
                deltas = join_levels([self.box_deltas(self.box_tower(chosen))], 4)
                rows.append(deltas[mask[images]])
                first = torch.tensor(images, device=mask.device) * wanted.shape[1] + sum(sizes[:n])
                within = mask[images].nonzero()
                order.append(first[within[:, 0]] + within[:, 1])
        return torch.cat(rows)[torch.cat(order).argsort()].float()

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Everything, for pyramid maps ``(B, C, H, W)``."""
        towers = self.towers(features)
        return HeadOutput(self.classify(towers.cls), self.regress(towers.box))


def join_levels(maps: Sequence[Tensor], width: int) -> Tensor:
    """Maps ``(B, A·width, H, W)`` of all levels as one ``(B, ΣHWA, width)``.

    A map in channels_last memory has that layout already; only joining several levels copies.
    """
    rows = [m.permute(0, 2, 3, 1).reshape(len(m), -1, width) for m in maps]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def _take(level: Tensor, images: list[int]) -> Tensor:
    """Some images of a map, in its memory format (indexing would lose it)."""
    if len(images) == len(level):
        return level
    return torch.cat([level[i : i + 1] for i in images])


def _tower(in_channels: int, channels: int, depth: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(
            nn.Conv2d(channels if i else in_channels, channels, 3, padding=1, bias=norm == "none")
        )
        if norm == "gn":
            layers.append(nn.GroupNorm(GROUPS, channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
