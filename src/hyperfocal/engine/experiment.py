"""`Experiment`: everything that decides how a run goes, as one typed config."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from hyperfocal.config import Config
from hyperfocal.data import DataConfig
from hyperfocal.engine.device import Wanted
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
    """The optimizer and its schedule; defaults are the focal-loss paper's (section 4.1)."""

    alternatives: ClassVar[tuple[str, ...]] = ("iterations", "epochs")

    iterations: int | None = None
    """Optimizer steps. Give this or epochs."""
    epochs: float | None = None
    """Passes over the training images, in place of iterations."""
    batch_size: int = 16
    """Images per optimizer step, over all devices and micro-batches."""
    micro_batches: int | Literal["auto"] = 1
    """Parts that a device's share of the batch is split into, to save memory (gradient
    accumulation). The result is the same whatever their number. auto: as few as memory allows."""

    parts: Literal["all", "head"] = "all"
    """What is trained: the whole detector but for its frozen parts, or its head alone (a quick
    start from model.weights)."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = 0.01
    """Peak learning rate."""
    backbone_lr_scale: float = 1.0
    """The backbone's share of lr; 0.1 suits a pretrained backbone under AdamW."""
    momentum: float = 0.9
    """SGD's momentum."""
    weight_decay: float = 1e-4
    """Weight decay."""
    decay_norm_and_bias: bool = False
    """Decay normalisation scales and biases too."""
    clip_norm: float | None = None
    """Clip the gradient's L2 norm to this."""

    schedule: Literal["multistep", "cosine", "constant"] = "multistep"
    """How the rate falls after the warm-up."""
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """Multi-step: fractions of the training at which the rate is multiplied by lr_decay."""
    lr_decay: float = 0.1
    """Multi-step: factor at each milestone."""
    final_lr: float = 0.0
    """Cosine: fraction of lr at the last step."""
    warmup_iterations: int = 500
    """Steps of linear warm-up; cut to a tenth of the training if that is shorter."""
    warmup_start: float = 1 / 3
    """Fraction of lr at the first step."""

    precision: Wanted = "fp32"
    """Arithmetic of the forward and backward pass (bf16: autocast; weights stay fp32). auto: bf16
    where the device has instructions for it, else fp32."""
    ema_decay: float | None = None
    """Keep an exponential moving average of the weights and evaluate that."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """When a loss or gradient isn't finite: stop, or leave that step out. Either way RUN/blackbox
    gets what is needed to see why."""

    evaluations: int = 10
    """Evaluations on the val split, evenly spaced; the last is after the last step."""
    patience: int | None = None
    """Stop early after this many evaluations in a row without a better AP; none: never."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""

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
            "rising fractions between 0 and 1",
        )
        self._require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "> 0, or None")
        self._require(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            "ema_decay",
            "between 0 and 1, or None",
        )


@dataclass(frozen=True)
class EvaluationConfig(Config):
    """What is measured and how categories are grouped by frequency."""

    groups: FrequencyGroups = field(default_factory=FrequencyGroups)
    """How categories are grouped by their training images, for APr, APc and APf."""
    protocol: ProtocolConfig = field(default_factory=CocoProtocol)
    """Whose rules: COCO's; LVIS's federated ones, for annotations in LVIS's format; or those of the
    Open Images Challenge, for its CSV files. Its AP also chooses the best weights."""
    expand_detections: bool = False
    """Protocol openimages: give each detection to all ancestors of its category too."""
    max_detections: int | None = None
    """Best detections that count: of an image and category by COCO's rules, of an image by the
    others'. None: the protocol's own limit (coco 100, lvis 300, openimages none).
    --max-detections N sets this and model.inference.max-detections."""
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
        """Best detections that count; None: all."""
        return self.protocol.limit if self.max_detections is None else self.max_detections

    @property
    def settings(self) -> EvaluatorSettings:
        """What the protocol is told."""
        return EvaluatorSettings(self.groups, self.expand_detections, self.limit)


@dataclass(frozen=True)
class Experiment(Config):
    """A complete run: what `hyperfocal train` takes and a run folder keeps in config.json."""

    train: TrainConfig
    """Optimizer and schedule."""
    model: DetectorConfig = field(default_factory=RetinaNet.Config)
    """The detector."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images, annotations, transforms, sampler."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Metrics."""

    out: Path | None = None
    """Run folder; default runs/RECIPE."""
    resume: bool = False
    """Go on from the newest checkpoint in the run folder; without any, start."""
    overwrite: bool = False
    """Replace an earlier run in the run folder."""
    accept_changed_data: bool = False
    """Resume although categories, images or boxes are not those that the run began with."""
    keep: int = 2
    """Checkpoints that stay, the newest ones."""
    checkpoint_seconds: float = 600.0
    """A checkpoint is written when the last one is older than this, and before each evaluation, and
    when a signal stops the run. 0: after every step."""
    seed: int = 0
    """Seed of weights, sampling and augmentation."""
    deterministic: bool = False
    """Only deterministic algorithms (slower on a GPU)."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to run."""
    devices: int = 1
    """Processes, one a device; under torchrun or srun their own count."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: every one has all weights (ddp), or they share them (fsdp), which
    saves memory and costs time."""
    timeout: float = 1800.0
    """Seconds that a process waits for the others before the run ends and says for whom. Longer
    than computing the metrics takes, which the main process does alone."""

    def __post_init__(self) -> None:
        """Check ranges."""
        self._require(self.keep >= 1, "keep", ">= 1")
        self._require(self.checkpoint_seconds >= 0, "checkpoint_seconds", ">= 0")
        self._require(self.devices >= 1, "devices", ">= 1")
        self._require(self.timeout > 0, "timeout", "> 0")
