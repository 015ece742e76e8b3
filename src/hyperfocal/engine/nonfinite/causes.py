"""Likely causes of a loss or gradient that isn't finite, most likely first."""

from __future__ import annotations

import math

import torch
from torch import nn

from hyperfocal.device import resolve
from hyperfocal.distributed.sharding import largest, local
from hyperfocal.experiment import TrainConfig
from hyperfocal.models import Detector
from hyperfocal.types import Batch

LR_FOR_16 = {"sgd": 0.01, "adamw": 1e-3}
"""Usual peak learning rates for a batch of 16."""
HIGH_PRIOR = 0.1
"""A higher mean score before training means that the classifier lacks its prior."""


def broken_boxes(batch: Batch) -> list[str]:
    """Boxes that aren't finite, have no area, or are outside their image, with the image's id."""
    found = []
    pairs = zip(batch.image_ids, batch.targets, batch.valid_hw.tolist(), strict=True)
    for image_id, target, (height, width) in pairs:
        for box in target.boxes.tolist():
            x1, y1, x2, y2 = box
            inside = -1 <= x1 < x2 <= width + 1 and -1 <= y1 < y2 <= height + 1
            if not all(map(math.isfinite, box)) or not inside:
                found.append(f"image {image_id}: box {[round(v, 2) for v in box]}")
    return found


def likely_causes(
    config: TrainConfig, model: nn.Module, batch: Batch, step: int, total: int
) -> list[str]:
    """Likely causes and what to change, most likely first.

    Args:
        config: settings of the optimizer.
        model: as before the step.
        batch: this process's images.
        step: optimizer steps done before.
        total: optimizer steps of the whole training.
    """
    ranked = [
        _broken_box(batch),
        _weights(model, config),
        _prior(model, step),
        _learning_rate(config, step, total),
        _precision(config, model),
    ]
    return [text for score, text in sorted(ranked, key=lambda c: -c[0]) if score > 0]


def _broken_box(batch: Batch) -> tuple[float, str]:
    wrong = broken_boxes(batch)
    return 10.0 * bool(wrong), f"an invalid box: {'; '.join(wrong[:3])}; fix the annotations"


def _weights(model: nn.Module, config: TrainConfig) -> tuple[float, str]:
    most = largest(model)
    score = 9.0 if most > 1e4 else 0.0
    return score, (
        f"earlier updates: a weight has grown to {most:.3g}, so train.lr = {config.lr:g} was too "
        "high; start again with a lower one"
    )


def _prior(model: nn.Module, step: int) -> tuple[float, str]:
    if not isinstance(model, Detector) or model.classifier is None:
        return 0.0, ""
    bias = dict(model.named_parameters()).get(f"{model.classifier}.bias")
    if bias is None:
        return 0.0, ""
    p = float(torch.sigmoid(local(bias.detach()).float()).mean())
    score = (7.0 if step < 1000 else 3.0) if p > HIGH_PRIOR else 0.0
    return score, (
        f"no prior: the classifier's bias gives every anchor a score of {p:.2f}, though most are "
        "background; set --model.head.prior-probability 0.01"
    )


def _learning_rate(config: TrainConfig, step: int, total: int) -> tuple[float, str]:
    usual = LR_FOR_16[config.optimizer] * config.batch_size / 16
    warmup = min(config.warmup_iterations, total // 10)
    score = min(max(5 + math.log2(config.lr / usual), 1.0), 8.0)
    clip = "" if config.clip_norm else "; --train.clip-norm 10 limits the gradient"
    return score, (
        f"learning rate: train.lr = {config.lr:g} with a batch size of {config.batch_size}, for "
        f"which {usual:.2g} is usual with {config.optimizer}; the warm-up takes {warmup} steps, "
        f"this is step {step}{clip}"
    )


def _precision(config: TrainConfig, model: nn.Module) -> tuple[float, str]:
    device = next(model.parameters()).device
    score = 4.0 if resolve(config.precision, device) == "bf16" else 0.0
    return score, "precision: bf16 has a mantissa of 8 bits; try --train.precision fp32"
