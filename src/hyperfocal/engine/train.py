"""The training loop."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from hyperfocal.data import epoch_length, eval_batches, train_batches
from hyperfocal.engine.checkpoint import load_checkpoint, save_checkpoint, save_weights
from hyperfocal.engine.devices import Sealed, TrainingForward, launch
from hyperfocal.engine.ema import WeightAverage
from hyperfocal.engine.evaluate import Evaluation, check_protocol, detect_all, measure
from hyperfocal.engine.experiment import Experiment, TrainConfig
from hyperfocal.engine.interrupt import StopRequest
from hyperfocal.engine.optim import build_optimizer, lr_factor, set_lr
from hyperfocal.engine.progress import ProgressBar
from hyperfocal.engine.ratio_log import RatioLog
from hyperfocal.engine.run_folder import MetricsLog, RunFolder, TrainedCategories
from hyperfocal.engine.saturation import Saturation, SaturationWarning, saturation
from hyperfocal.engine.splits import Splits, read_splits
from hyperfocal.engine.state import TrainState
from hyperfocal.engine.window import LossWindow
from hyperfocal.models import Detector
from hyperfocal.types import Batch, ConfigError, HyperfocalError, HyperfocalWarning, LossTerms

CHECKPOINT_SECONDS = 600.0
"""A checkpoint is written at every evaluation, and when the last one is older than this."""


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        run: its folder.
        splits: what it was trained and measured on.
        evaluation: the last evaluation; None without a val split, or where ``is_main`` is False.
        stopped_by: the signal that stopped it early, or None.
        is_main: whether this process is the one that writes files and talks.
        saturation: how far a loss that equalizes categories still does; None for other losses.
    """

    run: RunFolder
    splits: Splits
    evaluation: Evaluation | None
    stopped_by: str | None
    is_main: bool
    saturation: Saturation | None = None


def train(experiment: Experiment, run: RunFolder, console: Console) -> TrainResult:
    """Train, evaluate and keep the best weights in ``run``.

    Each optimizer step draws ``batch_size`` images over all processes; each process runs its share
    in ``micro_batches`` parts under one normaliser, so that neither number changes the result.

    Raises:
        HyperfocalError: settings or data that can't work, before the first step; or a loss that is
            no longer finite.
    """
    if run.checkpoint.exists() and not (experiment.resume or experiment.overwrite):
        raise ConfigError(
            f"{run.path} already holds a run. Add --resume to go on with it, --overwrite to "
            "replace it, or choose another --out."
        )
    fabric = launch(experiment)
    if not fabric.is_global_zero:  # one process says what is to be said
        warnings.simplefilter("ignore", HyperfocalWarning)
    splits = read_splits(experiment.data)
    if splits.val is not None:
        check_protocol(splits.val, experiment.evaluation)
    counts = splits.train.counts()
    config = experiment.train
    epoch = epoch_length(experiment.data, splits.train)
    total = total_steps(config, epoch)
    model = experiment.model.build(len(splits.train.categories), counts)
    optimizer = build_optimizer(model, config)
    forward, wrapped = fabric.setup(TrainingForward(model), optimizer)
    average = WeightAverage(model, config.ema_decay) if config.ema_decay else None
    state = TrainState(model, optimizer, average)
    if experiment.resume:
        state.load_state_dict(load_checkpoint(run.checkpoint))
    if fabric.is_global_zero:
        run.start(experiment, TrainedCategories(splits.train.categories, counts))
    fabric.barrier()

    loop = _Loop(experiment, fabric, forward, wrapped, state, splits, run, console, total, epoch)
    return loop.run_all()


class _Loop:
    """One call of `train`: the loop and what it needs at every turn."""

    def __init__(
        self,
        experiment: Experiment,
        fabric: Fabric,
        forward: Any,
        optimizer: Any,
        state: TrainState,
        splits: Splits,
        run: RunFolder,
        console: Console,
        total: int,
        epoch_length: float,
    ) -> None:
        self.experiment, self.config = experiment, experiment.train
        self.fabric, self.forward, self.optimizer, self.state = fabric, forward, optimizer, state
        self.splits, self.run, self.console, self.total = splits, run, console, total
        self.epoch_length = epoch_length
        self.main = fabric.is_global_zero
        self.log = MetricsLog(run, state.step, state.evaluated) if self.main else None
        self.ratios = RatioLog(run.ratios, state.model, state.step, total) if self.main else None
        self.saturated = SaturationWarning(state.model, splits.train.counts(), total)
        self.evaluation_steps = evaluation_steps(self.config.evaluations, total)
        self.saved_at = time.monotonic()
        self.window = LossWindow()

    def run_all(self) -> TrainResult:
        """From the state's step to the last one."""
        state = self.state
        progress = ProgressBar(self.console, "train", self.total, "it", state.step, self.main)
        with StopRequest() as stop, progress:
            batches = self.batches()
            while True:
                if state.step in self.evaluation_steps and state.evaluated < state.step:
                    self.save_checkpoint()
                    self.evaluate()
                if state.step == self.total or self.agreed(stop.received is not None):
                    break
                self.one_step(next(batches))
                progress.advance(1, self.window.note)
                if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                    self.save_checkpoint()
        self.save_checkpoint()
        if self.main and state.step == self.total and not self.evaluation_steps:
            save_weights(self.run.weights, self.best_model)
        if self.log is not None:
            self.log.close()
        finished = state.step == self.total
        stopped_by = None if finished else stop.received or "another process"
        saturated = saturation(state.model, self.splits.train.counts())
        return TrainResult(
            self.run, self.splits, state.evaluation, stopped_by, self.main, saturated
        )

    def batches(self) -> Iterator[Batch]:
        """This process's share of the global batches from the next step on."""
        return iter(
            train_batches(
                self.experiment.data,
                self.splits.train,
                batch_size=self.config.batch_size,
                seed=self.experiment.seed,
                start_step=self.state.step,
                rank=self.fabric.global_rank,
                world_size=self.fabric.world_size,
                pin_memory=self.fabric.device.type == "cuda",
            )
        )

    def one_step(self, batch: Batch) -> None:
        """Forward, backward and update on one global batch."""
        state, config = self.state, self.config
        lr = config.lr * lr_factor(state.step, self.total, config)
        set_lr(state.optimizer, lr)
        state.model.train()
        batch = batch.to(self.fabric.device, non_blocking=True)
        # In one piece the forward pass finds the normaliser itself, with the assignment it makes.
        z, parts = None, micro_batches(len(batch), config.micro_batches)
        if config.micro_batches > 1:
            with self.fabric.autocast():  # it may run the network
                z = state.model.normalizer(batch, parts)
        for part in parts:
            last = part is parts[-1]
            with self.fabric.no_backward_sync(self.forward, enabled=not last):
                sealed = Sealed(batch[part], None if z is None else z[part])
                terms = LossTerms(**self.forward(sealed))
                self.fabric.backward(terms.total)
            self.window.add(terms, len(batch[part]))
        self.window.steps += 1
        grad_norm = self.fabric.clip_gradients(
            self.forward,
            self.optimizer,
            max_norm=config.clip_norm or math.inf,
            error_if_nonfinite=False,
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        state.model.step()
        if state.average is not None:
            state.average.update(state.model)
        state.step += 1
        if self.ratios is not None:
            self.ratios.after(state.step)
        if state.step % config.log_every == 0 or state.step == self.total:
            self.log_window(lr, grad_norm)

    def log_window(self, lr: float, grad_norm: Tensor | None) -> None:
        """Write the mean of the terms since the last line, over all processes."""
        values = self.window.close(self.fabric)
        if not math.isfinite(values["loss"]):
            raise HyperfocalError(
                f"step {self.state.step}: the loss is {values['loss']}. The weights of the last "
                f"checkpoint are untouched. Likely causes: train.lr = {self.config.lr} is too high "
                f"for a batch of {self.config.batch_size}, no prior on the classification bias, or "
                f"too short a warm-up (train.warmup_iterations = {self.config.warmup_iterations}); "
                "train.clip_norm = 10 often helps."
            )
        values |= {"lr": lr, "epoch": self.epoch}
        if grad_norm is not None:
            values["grad_norm"] = float(grad_norm)
        if self.log is not None:
            self.log.write("step", self.state.step, values)

    @property
    def epoch(self) -> float:
        """Passes of the sampler so far."""
        return self.state.step * self.config.batch_size / self.epoch_length

    @property
    def best_model(self) -> Detector:
        """What is evaluated and kept: the average where there is one."""
        average = self.state.average
        return self.state.model if average is None else average.model  # type: ignore[return-value]

    def evaluate(self) -> None:
        """Measure on the val split; keep the weights if they are the best so far."""
        splits, state, fabric = self.splits, self.state, self.fabric
        state.evaluated = state.step
        self.saturated.at(state.step)
        if splits.val is None:
            if self.main:
                save_weights(self.run.weights, self.best_model)
            return
        batches = eval_batches(
            self.experiment.data,
            splits.val,
            batch_size=self.experiment.evaluation.batch_size,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        with fabric.autocast():
            found = detect_all(self.best_model, batches, fabric.device, lambda images: None)
        if self.main:
            counts = splits.train.counts()
            result = measure(found, splits.val, counts, self.experiment.evaluation)
            state.evaluation = result
            result.write(self.run, state.step)
            assert self.log is not None
            self.log.write("evaluation", state.step, {"epoch": self.epoch} | result.metrics)
            ap = result.ap
            if ap >= state.best or not self.run.weights.exists():
                state.best = max(ap, state.best)
                save_weights(self.run.weights, self.best_model)
            self.console.print(_one_line(state.step, self.total, result.metrics), highlight=False)
        fabric.barrier()

    def save_checkpoint(self) -> None:
        """Write checkpoints/last.pt."""
        if self.main:
            save_checkpoint(self.run.checkpoint, self.state.state_dict())
        self.saved_at = time.monotonic()
        self.fabric.barrier()

    def agreed(self, stop: bool) -> bool:
        """Whether any process was asked to stop, so that all of them do at the same step."""
        if self.fabric.world_size == 1:
            return stop
        flag = torch.tensor(float(stop), device=self.fabric.device)
        return bool(self.fabric.all_reduce(flag, reduce_op="sum") > 0)  # type: ignore[operator]


def total_steps(config: TrainConfig, epoch: float) -> int:
    """Optimizer steps of the whole training, with ``epoch`` images in a pass of the sampler."""
    if config.iterations is not None:
        return config.iterations
    assert config.epochs is not None
    return max(round(config.epochs * epoch / config.batch_size), 1)


def micro_batches(images: int, parts: int) -> list[slice]:
    """``parts`` slices of ``images`` as even as can be; fewer where there are fewer images."""
    parts = min(parts, images)
    bounds = [images * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def evaluation_steps(evaluations: int, total: int) -> frozenset[int]:
    """Steps after which to evaluate: evenly spaced, the last one included."""
    return frozenset(math.ceil(total * i / evaluations) for i in range(1, evaluations + 1))


def _one_line(step: int, total: int, metrics: dict[str, float]) -> str:
    shown = ("AP", "AP50", "APr", "APc", "APf", "AP1", "AP5")
    parts = [f"{n} {metrics[n]:.3f}" for n in shown if n in metrics and metrics[n] == metrics[n]]
    return f"step {step}/{total}  " + "  ".join(parts)
