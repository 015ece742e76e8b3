"""What a loss declares: base classes that say what else than ``forward`` it offers.

A loss is any module that is called as ``loss(logits (..., K), labels (...), normalizer)`` and
returns a scalar. What it can do beyond that it says by its base class, never by the name of a
method:

- `StreamableLoss`: a dense head may compute it a few categories at a time.
- `QualityLoss`: it also takes ``quality``, the IoU of each predicted box.
- `LossWithMemory`: it has a state that changes once per optimizer step.

A box loss is a `BoxLoss`, which says what it compares.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import nn

from hyperfocal.losses.kernels import Settings


class StreamableLoss(nn.Module):
    """A sum over logits of the focal family: cross entropy, focal, EFL, EQLv2 & focal.

    A head with many categories computes it together with its last convolution, a few categories at
    a time, from `settings`, and then ``forward`` is not called (see `streamed_loss`). So both must
    be the same function: the class that defines ``forward`` defines ``settings`` as well. A
    subclass that overrides one of them alone is no longer streamed (see `streamed.streams`).
    """

    @abstractmethod
    def settings(self, num_classes: int) -> Settings:
        """γ and the factors of positives and negatives, for K categories."""


class QualityLoss(nn.Module):
    """A loss whose target is the IoU of the predicted box.

    It is called with ``quality=(...)``, one value in [0, 1] for each label, as well.
    """


class LossWithMemory(nn.Module):
    """A loss whose statistics are folded in once per optimizer step (see `memory`)."""

    @abstractmethod
    def step(self) -> None:
        """Fold its own pending statistics into the state, over all processes; collective."""


class BoxLoss(nn.Module):
    """A loss of P boxes: ``loss(pred (P, 4), target (P, 4), weight=(P,))`` returns a scalar."""

    on_boxes: ClassVar[bool] = False
    """Whether it compares boxes (xyxy) rather than the detector's encoded outputs."""
