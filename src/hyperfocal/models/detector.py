"""Base classes of detectors and of their settings."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, overload

import torch
from torch import Tensor, nn

from hyperfocal.config import Config, did_you_mean
from hyperfocal.losses import step_losses
from hyperfocal.models.diagnosis import Diagnosis
from hyperfocal.models.image_lists import to_batch, to_dict
from hyperfocal.models.roles import FeatureNetwork
from hyperfocal.models.samples import Samples
from hyperfocal.types import Batch, CategoryCounts, ConfigError, DataError, Detections, LossTerms

SHARED_FIELDS = ("weights", "backbone", "pixels", "neck", "loss", "mining")
"""Settings of all detectors, which ``--model KIND`` keeps because they don't depend on the
assignment."""

WHOLE = (slice(None),)
"""A batch without micro-batches."""


@dataclass(frozen=True)
class DetectorConfig(Config, role=True):
    """Settings of a detector."""

    follows_loss: ClassVar[bool] = False
    """Whether the classifier has the logits that its loss declares (`LossWithOwnLogits`) and the
    scores are computed from them."""

    weights: Path | None = None
    """Fine-tune a trained detector: a run folder or its model.safetensors. Weights of the same name
    and shape are loaded, and of the classifier the categories with the same names."""
    reset_classifier: bool = False
    """With weights: initialise the classifier instead of loading it (cRT, BAGS)."""

    @abstractmethod
    def build(self, num_classes: int, counts: CategoryCounts | None = None) -> Detector:
        """The detector for K categories.

        Args:
            num_classes: K.
            counts: images and boxes per category, for losses that weight categories.
        """

    @property
    def max_detections(self) -> int | None:
        """Maximum number of detections per image; None: no such setting."""
        return None

    def with_max_detections(self, most: int) -> Self:
        """The settings with another maximum number of detections per image.

        Raises:
            ConfigError: there is no such setting, or ``most`` is below 1.
        """
        raise ConfigError(f"--max-detections {most}: detector {self.kind} has no such setting")

    def check_names(self, settings: Mapping[str, Any]) -> None:
        """Check that all names are fields of this config.

        Raises:
            ConfigError: an unknown name.
        """
        known = {field.name for field in fields(self)}
        for name in settings:
            if name not in known:
                raise ConfigError(f"{self.kind}: no setting {name!r} ({did_you_mean(name, known)})")

    def offline(self) -> Self:
        """The same detector without initial weights, for loading a trained state dict."""
        return replace(self, weights=None)


@dataclass(frozen=True)
class CategoryRows:
    """Which outputs of a layer belong to which category, for fine-tuning with other categories.

    Attributes:
        layer: name of a convolution or linear layer.
        per_category: number of outputs of each category.
        category_first: output ``j · per_category + i`` belongs to category j; otherwise output
            ``i · K + j`` does, as in a dense head with ``per_category`` anchors.
        others: number of outputs after those of all categories, such as that of the background.
    """

    layer: str
    per_category: int
    category_first: bool = False
    others: int = 0


class Detector(nn.Module, ABC):
    """Base class of detectors.

    An optimizer step can be split into micro-batches:

        z = model.divisors(batch, parts)
        for part in parts:
            model.loss_terms(batch[part], z[part]).total.backward()
        optimizer.step()
        model.step()

    This gives the gradients of ``model(batch).total.backward()``, except for batch norms in
    training mode, which use the statistics of the micro-batch.

    In your own training loop, call it like torchvision's detectors (`forward`), and call
    ``model.step()`` after ``optimizer.step()``, which losses with memory (EFL, EQLv2) need.

    Attributes:
        num_classes: K.
        resize: size of images passed to `forward` as a list: the shorter side, and the limit of the
            longer one; None: no resizing.
    """

    backbone_part: ClassVar[str | None] = None
    """Name of the pretrained part, to which ``train.backbone_lr_scale`` and sharding apply."""
    head_part: ClassVar[str | None] = None
    """Name of the part to which ``train.parts = head`` restricts training."""
    classifier: ClassVar[str | None] = None
    """Name of the layer (or list of layers) that computes the classification logits."""
    statistics: ClassVar[tuple[str, ...]] = ()
    """Names of parts whose buffers depend on the training data, which fine-tuning resets."""

    num_classes: int
    resize: tuple[int, int] | None = (800, 1333)
    _frozen_norms: tuple[nn.Module, ...] = ()

    @property
    @abstractmethod
    def loss(self) -> nn.Module:
        """The classification loss."""

    @property
    def category_rows(self) -> tuple[CategoryRows, ...]:
        """The layers with outputs by category, which fine-tuning copies by category name."""
        return ()

    @overload
    def forward(self, images: Batch) -> LossTerms: ...
    @overload
    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]: ...
    def forward(
        self,
        images: Batch | Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> LossTerms | dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in eval mode, like torchvision's detectors.

        Args:
            images: ``(3, H, W)`` RGB tensors of any size, uint8 or float in [0, 1], not normalised;
                resized to ``resize``. Or a `Batch`, for which the result is `LossTerms`.
            targets: per image ``{"boxes": (N, 4) xyxy pixels, "labels": (N,) in 0..K-1}``; required
                in training mode.

        Returns:
            In training mode the terms of the loss by name, to be summed. In eval mode per image
            ``{"boxes": (N, 4), "scores": (N,), "labels": (N,)}`` in pixels of the input image, best
            first.

        Raises:
            DataError: no targets in training mode, or images or targets of wrong shapes.

        In a training loop, and then for detections:

            model = hyperfocal.RetinaNet(num_classes=3)
            losses = model(images, targets)
            sum(losses.values()).backward()
            model.eval()
            model(images)[0]["boxes"]
        """
        if isinstance(images, Batch):
            return self.loss_terms(images)
        if self.training and targets is None:
            raise DataError("training mode needs targets; call model.eval() for detections")
        given = targets if self.training else None
        batch = to_batch(images, given, self.num_classes, self.resize)
        if self.training:
            return dict(self.loss_terms(batch).terms)
        return [to_dict(found) for found in self.detect(batch)]

    @abstractmethod
    def loss_terms(self, batch: Batch, divisors: Tensor | None = None) -> LossTerms:
        """The terms of the training loss.

        Args:
            batch: images and targets.
            divisors: ``(B, ...)``, the result of `divisors` for these images; None: this batch's.
        """

    @abstractmethod
    def divisors(self, batch: Batch, parts: Sequence[slice] = WHOLE) -> Tensor:
        """``(B, ...)``: divisors of each image's loss sums.

        The network only runs if they depend on predictions, and then on the same micro-batches,
        under the same autocast, as in the following forward passes. Call it in every process with
        the process's whole batch of an optimizer step.

        Args:
            batch: the whole batch.
            parts: the micro-batches, which together cover it.
        """

    @abstractmethod
    def detect(self, batch: Batch) -> list[Detections]:
        """Detections in the pixels of each original image, best first (call ``eval()`` first)."""

    @abstractmethod
    def samples(self, batch: Batch) -> Samples:
        """The inputs of the classification loss for a batch, with all logits.

        Priors that mining doesn't select are ignored (-1) here too.
        """

    def diagnose(self, batch: Batch) -> Diagnosis | None:
        """The classification loss by level and category; None if not supported."""
        return None

    def freeze_except(self, trained: str) -> None:
        """Freeze all parameters and statistics of batch norms outside one part.

        Args:
            trained: name of the part that is trained.
        """
        part = self.get_submodule(trained)
        own = {id(parameter) for parameter in part.parameters()}
        for module in self.modules():
            if isinstance(module, FeatureNetwork):
                module.fix()
        for parameter in self.parameters():
            if id(parameter) not in own:
                parameter.requires_grad_(False)
        inside = set(part.modules())
        self._frozen_norms = tuple(
            module
            for module in self.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in inside
        )
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode, except for frozen parts."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def step(self) -> None:
        """Update losses with memory with the statistics of an optimizer step."""
        step_losses(self.loss)


@contextlib.contextmanager
def predicting(model: nn.Module) -> Iterator[None]:
    """Context in eval mode and without gradients; the previous mode is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
