"""What the engine asks of every detector."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from hyperfocal.losses import step_losses
from hyperfocal.models.diagnosis import Diagnosis
from hyperfocal.models.samples import Samples
from hyperfocal.types import Batch, Detections, LossTerms

SHARED_FIELDS = ("backbone", "pixels", "neck", "loss", "mining")
"""Settings of every detector, which ``--model KIND`` keeps: they have nothing to do with how
objects are assigned."""

WHOLE = (slice(None),)
"""A batch in one piece."""


class Detector(nn.Module, ABC):
    """A detector that `engine` can train and run.

    An optimizer step may be split into micro-batches::

        z = model.normalizer(batch, parts)
        for part in parts:
            model(batch[part], z[part]).total.backward()
        optimizer.step()
        model.step()

    gives the gradients of ``model(batch).total.backward()``. Batch norms in training mode are the
    exception: they see the micro-batch.

    Attributes:
        num_classes: K.
        loss: the classification loss.
    """

    num_classes: int
    loss: nn.Module

    @abstractmethod
    def forward(self, batch: Batch, normalizer: Tensor | None = None) -> LossTerms:
        """The training loss.

        Args:
            batch: images and targets.
            normalizer: ``(B, ...)``, what `normalizer` gave for these images; None: for this batch.
        """

    @abstractmethod
    def normalizer(self, batch: Batch, parts: Sequence[slice] = WHOLE) -> Tensor:
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
        for module in self.children():
            step_losses(module)


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
