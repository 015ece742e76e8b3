"""What the engine asks of every detector."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from hyperfocal.losses import step_losses
from hyperfocal.types import Batch, Detections, LossTerms

SHARED_FIELDS = ("backbone", "pixels", "neck", "loss")
"""Settings of every detector, which ``--model KIND`` keeps: they have nothing to do with how
objects are assigned."""


class Detector(nn.Module, ABC):
    """A detector that `engine` can train and run.

    An optimizer step may be split into micro-batches::

        z = model.normalizer(batch)
        for part in parts:
            model(batch[part], z[part]).total.backward()
        optimizer.step()
        model.step()

    gives the gradients of ``model(batch).total.backward()``. Batch norms in training mode are the
    exception: they see the micro-batch.

    Attributes:
        num_classes: K.
    """

    num_classes: int

    @abstractmethod
    def forward(self, batch: Batch, normalizer: Tensor | None = None) -> LossTerms:
        """The training loss.

        Args:
            batch: images and targets.
            normalizer: ``(B, ...)``, what `normalizer` gave for these images; None: for this batch.
        """

    @abstractmethod
    def normalizer(self, batch: Batch) -> Tensor:
        """``(B, ...)``: what each image's loss sums are divided by.

        Found without running the network, except where it depends on predictions. Call it on this
        process's whole share of an optimizer step, on every process.
        """

    @abstractmethod
    def detect(self, batch: Batch) -> list[Detections]:
        """Detections in the pixels of each original image, best first (call ``eval()`` first)."""

    def step(self) -> None:
        """Let losses with memory fold in the statistics of an optimizer step."""
        for module in self.children():
            step_losses(module)
