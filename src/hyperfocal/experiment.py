"""`Experiment`: all settings of a run, as one typed config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal

from hyperfocal.config import Config
from hyperfocal.data import DataConfig
from hyperfocal.device import Wanted
from hyperfocal.evaluation import (
    CocoProtocol,
    EvaluatorSettings,
    FrequencyGroups,
    OpenImagesProtocol,
    ProtocolConfig,
)
from hyperfocal.models import DetectorConfig, RetinaNet


@dataclass(frozen=True)
class TrainConfig(Config):
    """Optimizer and schedule; defaults are the focal loss paper's (section 4.1)."""

    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"parts": "only"})

    alternatives: ClassVar[tuple[str, ...]] = ("iterations", "epochs")

    iterations: int | None = None
    """Number of optimizer steps. Give this or epochs."""
    epochs: float | None = None
    """Epochs over the training images, instead of iterations."""
    batch_size: int = 16
    """Images per optimizer step, over all devices and micro-batches."""
    micro_batches: int | Literal["auto"] = 1
    """Micro-batches per step on each device, to save memory (gradient accumulation). Their number
    doesn't change the result. auto: as few as fit into memory."""

    only: Literal["all", "head", "classifier"] = "all"
    """Parts to train: all (except frozen ones), only the head (quick fine-tuning from
    model.weights), or only the layer of the classification logits (cRT)."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = 0.01
    """Peak learning rate."""
    backbone_lr_scale: float = 1.0
    """Factor on lr for the backbone; 0.1 suits a pretrained backbone with AdamW."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay."""
    decay_norm_and_bias: bool = False
    """Apply weight decay to normalisation layers and biases too."""
    clip_norm: float | None = None
    """Maximum L2 norm of the gradient; larger gradients are clipped."""

    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    """Learning-rate schedule after the warm-up."""
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """Multi-step: fractions of training at which lr is multiplied by lr_decay."""
    lr_decay: float = 0.1
    """Multi-step: factor at each milestone."""
    final_lr: float = 0.0
    """Cosine: learning rate at the last step, as a fraction of lr."""
    warmup_iterations: int = 500
    """Steps of linear warm-up; at most a tenth of all steps."""
    warmup_start: float = 1 / 3
    """Learning rate at the first step, as a fraction of lr."""

    precision: Wanted = "fp32"
    """Precision of the forward and backward pass (bf16: autocast; weights stay fp32). auto: bf16 if
    the device has instructions for it, else fp32."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, which is evaluated and saved instead
    of them."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """If a loss or gradient isn't finite: stop, or skip the step. In both cases RUN/blackbox gets
    the data for finding the cause."""

    evaluations: int = 10
    """Number of evaluations on the validation split, evenly spaced, the last one after the last
    step."""
    patience: int | None = None
    """Stop early after this many evaluations in a row without a better AP; none: never."""
    log_every: int = 20
    """Steps between log entries in metrics.jsonl."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.iterations is None and self.epochs is None:
            self._require(False, "iterations", "given, or epochs")
        if self.iterations is not None and self.epochs is not None:
            self._require(False, "iterations", f"left out, or epochs ({self.epochs}) set to None")
        self._require(self.iterations is None or self.iterations >= 1, "iterations", ">= 1")
        self._require(self.epochs is None or self.epochs > 0, "epochs", "> 0")
        for name in ("batch_size", "log_every"):
            self._require(getattr(self, name) >= 1, name, ">= 1")
        parts = self.micro_batches
        self._require(parts == "auto" or parts >= 1, "micro_batches", ">= 1, or auto")
        for name in ("backbone_lr_scale", "weight_decay", "final_lr", "warmup_iterations"):
            self._require(getattr(self, name) >= 0, name, ">= 0")
        self._require(self.lr > 0, "lr", "> 0")
        self._require(0 <= self.momentum < 1, "momentum", "in [0, 1)")
        self._require(0 <= self.warmup_start <= 1, "warmup_start", "in [0, 1]")
        self._require(self.evaluations >= 0, "evaluations", ">= 0")
        self._require(
            self.patience is None or 1 <= self.patience < self.evaluations,
            "patience",
            f"at least 1 and less than train.evaluations ({self.evaluations}), or None",
        )
        self._require(
            all(0 < m < 1 for m in self.milestones)
            and list(self.milestones) == sorted(self.milestones),
            "milestones",
            "increasing fractions between 0 and 1",
        )
        self._require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "> 0, or None")
        self._require(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            "ema_decay",
            "between 0 and 1, or None",
        )


@dataclass(frozen=True)
class EvaluationConfig(Config):
    """Evaluation protocol, and groups of categories by frequency."""

    groups: FrequencyGroups = field(default_factory=FrequencyGroups)
    """Groups of categories by number of training images, for APr, APc and APf."""
    protocol: ProtocolConfig = field(default_factory=CocoProtocol)
    """Evaluation protocol: coco; lvis, for annotations in LVIS format; or openimages (of the Open
    Images Challenge), for its CSV files. Its AP also selects the best weights."""
    expand_detections: bool = False
    """Protocol openimages: assign each detection to all ancestors of its category too."""
    max_detections: int | None = None
    """Detections that are evaluated, those with the highest scores: per image and category for
    coco, per image for the others. None: the protocol's own limit (coco 100, lvis 300, openimages
    none). --max-detections N sets this and model.inference.max-detections."""
    batch_size: int = 8
    """Images per forward pass."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self._require(self.batch_size >= 1, "batch_size", ">= 1")
        fits = isinstance(self.protocol, OpenImagesProtocol) or not self.expand_detections
        self._require(fits, "expand_detections", "False unless protocol is openimages")
        least = self.protocol.least_limit
        fits = self.max_detections is None or self.max_detections >= least
        self._require(fits, "max_detections", f">= {least}, or None")

    @property
    def limit(self) -> int | None:
        """Maximum number of detections that are evaluated; None: all."""
        return self.protocol.limit if self.max_detections is None else self.max_detections

    @property
    def settings(self) -> EvaluatorSettings:
        """Settings passed to the protocol."""
        return EvaluatorSettings(self.groups, self.expand_detections, self.limit)


@dataclass(frozen=True)
class Experiment(Config):
    """All settings of a run, as passed to `hyperfocal train` and saved in its config.json.

    Examples:
        >>> import dataclasses
        >>> from hyperfocal.recipes import load_recipe
        >>> experiment = dataclasses.replace(load_recipe("demo"), seed=7)
        >>> experiment.seed, experiment.model.kind
        (7, 'retinanet')
    """

    train: TrainConfig
    """Optimizer and schedule."""
    model: DetectorConfig = field(default_factory=RetinaNet.Config)
    """The detector."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images, annotations, transforms, sampler."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation protocol and limits."""

    out: Path | None = None
    """Run folder; default runs/RECIPE."""
    resume: bool = False
    """Resume from the newest checkpoint in the run folder; without one, start a new run.
    ``train --resume RUN`` does so with the run's own settings."""
    overwrite: bool = False
    """Replace an earlier run in the run folder."""
    accept_changed_data: bool = False
    """Resume even if categories, images or boxes have changed since the run started."""
    keep: int = 2
    """Number of checkpoints to keep, the newest ones."""
    checkpoint_seconds: float = 600.0
    """Seconds between checkpoints. One is also saved before each evaluation, and when a signal
    stops the run. 0: after every step."""
    seed: int = 0
    """Random seed of weights, sampling and augmentation."""
    deterministic: bool = False
    """Use only deterministic algorithms (slower on a GPU)."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device type to train on."""
    devices: int = 1
    """Number of processes, one per device; torchrun and srun set their own number."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: each has all weights (ddp), or they are sharded (fsdp), which saves
    memory and costs time."""
    timeout: float = 1800.0
    """Seconds that a process waits for the others before the run ends with an error naming the
    process that is behind. Must exceed the time for computing the metrics, which only the main
    process does."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self._require(self.keep >= 1, "keep", ">= 1")
        self._require(self.checkpoint_seconds >= 0, "checkpoint_seconds", ">= 0")
        self._require(self.devices >= 1, "devices", ">= 1")
        self._require(self.timeout > 0, "timeout", "> 0")
