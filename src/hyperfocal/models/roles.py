"""Base classes of a detector's parts and their settings: backbones, necks, mining."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from hyperfocal.config import Config


class FeatureNetwork(nn.Module, ABC):
    """A backbone, which computes feature maps at strides 8, 16 and 32 from normalised images.

    Attributes:
        channels: channels of the three maps.
        mean: RGB mean in [0, 1] that its weights expect.
        std: standard deviation, likewise.
        fixed: whether `fix` was called.
    """

    channels: tuple[int, ...]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    fixed: bool = False

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """C3, C4 and C5 ``(B, C, H/s, W/s)`` of ``(B, 3, H, W)``; H and W are multiples of 32."""

    def fix(self) -> None:
        """Freeze all parameters and statistics."""
        self.fixed = True
        self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode, unless frozen by `fix`."""
        return super().train(mode and not self.fixed)


@dataclass(frozen=True)
class BackboneConfig(Config, role=True):
    """Settings of a backbone."""

    @abstractmethod
    def build(self) -> FeatureNetwork:
        """The backbone with its initial weights."""

    @abstractmethod
    def offline(self) -> Self:
        """The same network without initial weights, for loading a trained state dict."""


class Neck(nn.Module, ABC):
    """A feature pyramid, which computes the head's levels from the backbone's three maps.

    Attributes:
        channels: channels of each level.
        strides: strides of the levels, from fine to coarse.
    """

    channels: int
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One ``(B, channels, H/s, W/s)`` map per level, from C3, C4 and C5."""


@dataclass(frozen=True)
class NeckConfig(Config, role=True):
    """Settings of a neck."""

    @property
    @abstractmethod
    def strides(self) -> tuple[int, ...]:
        """Strides of the levels, from fine to coarse."""

    @abstractmethod
    def build(self, in_channels: tuple[int, ...]) -> Neck:
        """The neck for a backbone's maps with these channels."""


@dataclass(frozen=True)
class MiningConfig(Config, role=True):
    """Selects the priors that a detector is trained on; a Config without a separate component."""

    @property
    def counts_selected(self) -> bool:
        """Whether losses are divided by the number of selected priors instead of positives."""
        return False

    @abstractmethod
    def choose(self, losses: Tensor, labels: Tensor, boxes: Tensor, num_classes: int) -> Tensor:
        """``(A,)`` bool of one image, from its ``(A,)`` losses and labels and ``(A, 4)`` boxes.

        Args:
            losses: summed cross entropy of each prior.
            labels: ``0..K-1`` a category, K background, -1 ignored.
            boxes: the priors, xyxy pixels.
            num_classes: K.
        """
