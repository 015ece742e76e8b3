"""One optimizer step on one global batch."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hyperfocal.distributed.sharding import full, whole
from hyperfocal.engine.state import TrainState
from hyperfocal.experiment import TrainConfig
from hyperfocal.losses._core.memory import own_buffers
from hyperfocal.models import Detector
from hyperfocal.types import Batch, HyperfocalError, HyperfocalWarning, LossTerms

_KEY = 3  # separates these seeds from those of `data.samplers` and `data.batches`

POSITIVES = "(positives)"
"""Name of `LossTerms.positives` among the tensors that pass through Fabric."""


class Sealed:
    """Carries a batch through Fabric, which would otherwise rebuild every dataclass in it."""

    __slots__ = ("batch", "divisors")

    def __init__(self, batch: Batch, divisors: Tensor | None) -> None:
        self.batch, self.divisors = batch, divisors


class TrainingForward(nn.Module):
    """The module that Fabric wraps: the detector's loss terms as a dict of tensors."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        # Documented in torch as the way to exclude buffers from DDP.
        ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(self, own_buffers(self))  # type: ignore[no-untyped-call]

    def forward(self, sealed: Sealed) -> dict[str, Tensor]:
        """The terms of the loss by name, and `POSITIVES`."""
        terms = self.detector.loss_terms(sealed.batch, sealed.divisors)
        return {**terms.terms, POSITIVES: terms.positives}


class Gradients(NamedTuple):
    """Results of a forward and backward pass, besides the parameters' gradients.

    Attributes:
        terms: loss terms of each micro-batch.
        norm: the gradient's L2 norm before clipping.
        bad: bool scalar on the device; this process's loss or the gradient isn't finite.
    """

    terms: list[LossTerms]
    norm: Tensor
    bad: Tensor


class Stepper:
    """Computes the gradients of a global batch, and updates the weights.

    Before each step the model's buffers (batch norms' and losses' statistics) are copied, so that a
    failed step can be undone: `gradients` changes nothing else. The copies take a few hundred
    kilobytes.

    Args:
        fabric: Fabric of the training.
        forward: the detector, wrapped by Fabric.
        optimizer: wrapped by Fabric.
        state: training state to update.
        config: settings of the optimizer.
        seed: the run's seed.

    Attributes:
        parts: micro-batches per step.
    """

    def __init__(
        self,
        fabric: Fabric,
        forward: Any,
        optimizer: Any,
        state: TrainState,
        config: TrainConfig,
        seed: int,
    ) -> None:
        self.fabric, self.forward, self.optimizer = fabric, forward, optimizer
        self.state, self.config, self.seed = state, config, seed
        self.auto = config.micro_batches == "auto"
        self.parts = 1 if config.micro_batches == "auto" else config.micro_batches
        self._buffers = list(state.model.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    def gradients(
        self, batch: Batch, divisors: Tensor | None = None, rank: int | None = None
    ) -> Gradients:
        """Gradients of this process's share of a batch, averaged over all processes, clipped.

        Args:
            batch: on the device.
            divisors: ``(B, ...)``; by default the batch's own.
            rank: process whose random numbers to use; by default this one.

        Raises:
            HyperfocalError: out of memory, unless ``micro_batches = "auto"``.
        """
        torch._foreach_copy_(self._kept, self._buffers)
        seed = step_seed(
            self.seed, self.state.step, self.fabric.global_rank if rank is None else rank
        )
        tried = self.parts
        while (terms := self._passes(batch, divisors, seed)) is None:
            self.undo()
            self._split_further(batch)
        if self.parts != tried:
            report_micro_batches(self.auto, tried, self.parts, len(batch))
        norm = self.fabric.clip_gradients(
            self.forward,
            self.optimizer,
            max_norm=self.config.clip_norm or math.inf,
            error_if_nonfinite=False,
        )
        assert norm is not None
        norm = full(norm)
        losses = torch.stack([part.total.detach() for part in terms])
        return Gradients(terms, norm, ~(losses.isfinite().all() & norm.isfinite()))

    def _passes(self, batch: Batch, divisors: Tensor | None, seed: int) -> list[LossTerms] | None:
        """Forward and backward over all micro-batches; None if out of memory."""
        model = self.state.model
        model.train()
        torch.manual_seed(seed)
        # A process that runs out of memory must not leave others waiting in a collective, so with
        # "auto" they synchronise only after all have finished.
        apart = self.auto and self.fabric.world_size > 1
        z, parts = divisors, micro_batches(len(batch), self.parts)
        if z is None and (apart or self.parts > 1):
            # For a whole batch the forward pass computes it, from its own assignment.
            with whole(model), self.fabric.autocast():  # it may run the network
                z = model.divisors(batch, parts)
        terms: list[LossTerms] = []
        full = False
        try:
            for part in parts:
                meet = part is parts[-1] and not apart
                with self.fabric.no_backward_sync(self.forward, enabled=not meet):
                    sealed = Sealed(batch[part], None if z is None else z[part])
                    values = self.forward(sealed)
                    made = LossTerms(values, positives=values.pop(POSITIVES))
                    self.fabric.backward(made.total)
                terms.append(made)
        except torch.OutOfMemoryError as error:
            if self.fabric.world_size > 1 and not apart:
                raise HyperfocalError(out_of_memory(self.parts)) from error
            full = True
        if apart:
            failed = torch.tensor(float(full), device=self.fabric.device)
            full = bool(self.fabric.all_reduce(failed, reduce_op="sum") > 0)  # type: ignore[operator]
            if not full:
                average_gradients(model)
        return None if full else terms

    def _split_further(self, batch: Batch) -> None:
        if self.parts >= len(batch):
            raise HyperfocalError(
                "out of memory with one image at a time: use smaller images "
                "(data.train_transform), a smaller model, or --train.precision bf16"
            )
        self.parts = min(2 * self.parts, len(batch))
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()

    def undo(self) -> None:
        """Restore buffers and gradients to their state before `gradients`."""
        torch._foreach_copy_(self._buffers, self._kept)
        self.optimizer.zero_grad()

    def update(self) -> None:
        """Update the weights, their average and the losses' statistics; completes a step."""
        state = self.state
        self.optimizer.step()
        self.optimizer.zero_grad()
        state.model.step()
        if state.average is not None:
            state.average.update(state.model)
        state.step += 1


def average_gradients(model: nn.Module) -> None:
    """Average gradients over all processes, after passes without synchronisation; collective."""
    gradients = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def report_micro_batches(auto: bool, before: int, now: int, images: int) -> None:
    """Warn of the new number of micro-batches, or raise if it is fixed.

    Raises:
        HyperfocalError: not ``auto``; the message has the number that fits.
    """
    if not auto:
        raise HyperfocalError(
            f"{out_of_memory(before)} {now} of up to {-(-images // now)} images each fit into "
            f"memory: add --train.micro-batches {now}"
        )
    warnings.warn(
        f"out of memory: using {now} micro-batches of up to {-(-images // now)} images from now "
        "on, which gives the same result",
        HyperfocalWarning,
        stacklevel=2,
    )


def out_of_memory(parts: int) -> str:
    """First sentences of the message."""
    return (
        f"out of memory with train.micro_batches = {parts}. More of them need less memory and give "
        "the same result: --train.micro-batches auto finds the number."
    )


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generators in one step, so that dropout needs no saved state."""
    return int(np.random.SeedSequence([seed, step, rank, _KEY]).generate_state(1)[0])


def micro_batches(images: int, parts: int) -> list[slice]:
    """``parts`` slices of ``images``, as even as possible; fewer if there are fewer images."""
    parts = min(parts, images)
    bounds = [images * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
