"""What the engine asks of every detector."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self, overload

import torch
from torch import Tensor, nn

from hyperfocal.config import Config
from hyperfocal.losses import step_losses
from hyperfocal.models.diagnosis import Diagnosis
from hyperfocal.models.image_lists import to_batch, to_dict, to_losses
from hyperfocal.models.samples import Samples
from hyperfocal.types import Batch, CategoryCounts, DataError, Detections, LossTerms

SHARED_FIELDS = ("weights", "backbone", "pixels", "neck", "loss", "mining")
"""Settings of every detector, which ``--model KIND`` keeps: they have nothing to do with how
objects are assigned."""

WHOLE = (slice(None),)
"""A batch in one piece."""


@dataclass(frozen=True)
class DetectorConfig(Config, role=True):
    """Settings of a detector."""

    weights: Path | None = None
    """Start from a trained detector: a run folder or its model.safetensors. What fits by name and
    shape is taken, of the classifier the categories with the same names (fine-tuning)."""

    @abstractmethod
    def build(self, num_classes: int, counts: CategoryCounts | None = None) -> Detector:
        """The detector for K categories.

        Args:
            num_classes: K.
            counts: how often each occurs in training, for losses that weigh categories.
        """

    def offline(self) -> Self:
        """The same detector without initial weights to read or download: trained ones come next."""
        return replace(self, weights=None)


class Detector(nn.Module, ABC):
    """A detector that `engine` can train and run.

    An optimizer step may be split into micro-batches::

        z = model.divisors(batch, parts)
        for part in parts:
            model.loss_terms(batch[part], z[part]).total.backward()
        optimizer.step()
        model.step()

    gives the gradients of ``model(batch).total.backward()``. Batch norms in training mode are the
    exception: they see the micro-batch.

    In a training loop of your own, call it as torchvision's detectors are called (`forward`), and
    ``model.step()`` after ``optimizer.step()``, which losses with memory (EFL, EQLv2) need.

    Attributes:
        num_classes: K.
        resize: size of images given to `forward` as a list: the shorter side, and the limit of the
            longer one; None leaves them as they are.
    """

    backbone_part: ClassVar[str | None] = None
    """Name of its pretrained part, which ``train.backbone_lr_scale`` and sharding are about."""
    head_part: ClassVar[str | None] = None
    """Name of the part that ``train.parts = head`` trains alone."""
    classifier: ClassVar[str | None] = None
    """Name of the convolution with an output for each anchor and category (channel a·K + j belongs
    to anchor a and category j): fine-tuning takes its rows by the categories' names."""
    statistics: ClassVar[tuple[str, ...]] = ()
    """Names of parts whose buffers depend on the training data, which fine-tuning starts anew."""

    num_classes: int
    resize: tuple[int, int] | None = (800, 1333)

    @property
    @abstractmethod
    def loss(self) -> nn.Module:
        """The classification loss."""

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
        """Losses in training mode, detections in eval mode, as torchvision's detectors.

        Args:
            images: ``(3, H, W)`` RGB tensors of any sizes, uint8 or float in [0, 1], not
                normalised; resized to ``resize``. Or a `Batch`, which gives `LossTerms`.
            targets: of each image ``{"boxes": (N, 4) xyxy pixels, "labels": (N,) in 0..K-1}``;
                needed in training mode.

        Returns:
            In training mode the terms of the loss by name, to be summed. In eval mode for each
            image ``{"boxes": (N, 4), "scores": (N,), "labels": (N,)}`` in its own pixels, best
            first.

        Raises:
            DataError: no targets in training mode, or images or targets of wrong shapes.

        Example::

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
            return to_losses(self.loss_terms(batch))
        return [to_dict(found) for found in self.detect(batch)]

    @abstractmethod
    def loss_terms(self, batch: Batch, divisors: Tensor | None = None) -> LossTerms:
        """The terms of the training loss.

        Args:
            batch: images and targets.
            divisors: ``(B, ...)``, what `divisors` gave for these images; None: for this batch.
        """

    @abstractmethod
    def divisors(self, batch: Batch, parts: Sequence[slice] = WHOLE) -> Tensor:
        """``(B, ...)``: what each image's loss sums are divided by.

        Found without running the network, except where it depends on predictions; then the network
        sees the same micro-batches, under the same autocast, as in the forward passes to come. Call
        it on this process's whole share of an optimizer step, on every process.

        Args:
            batch: the whole share.
            parts: the micro-batches, which together are all of it.
        """

    @abstractmethod
    def detect(self, batch: Batch) -> list[Detections]:
        """Detections in the pixels of each original image, best first (call ``eval()`` first)."""

    @abstractmethod
    def samples(self, batch: Batch) -> Samples:
        """What the classification loss would see of a batch, all logits at once.

        Priors that mining leaves out are ignored (-1) here too.
        """

    def diagnose(self, batch: Batch) -> Diagnosis | None:
        """Its classification loss by level and category; None where it can't tell."""
        return None

    def step(self) -> None:
        """Let losses with memory fold in the statistics of an optimizer step."""
        step_losses(self.loss)


@contextlib.contextmanager
def predicting(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; afterwards in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
