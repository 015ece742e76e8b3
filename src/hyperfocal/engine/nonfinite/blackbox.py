"""RUN/blackbox: data for finding out why a step's loss or gradient wasn't finite."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from hyperfocal.distributed.launch import launch
from hyperfocal.distributed.sharding import full_state, local, whole
from hyperfocal.engine.nonfinite.causes import broken_boxes
from hyperfocal.engine.optim import build_optimizer
from hyperfocal.engine.state import TrainState
from hyperfocal.engine.step import Gradients, Stepper, TrainingForward
from hyperfocal.fonts import Label, image_label
from hyperfocal.models import Detector
from hyperfocal.names import command
from hyperfocal.runs.checkpoint import load_checkpoint, save_checkpoint
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import finite, write_json
from hyperfocal.runs.weights import load_weights, save_tensors
from hyperfocal.types import AnnotationSet, Batch, LossTerms, Target

MOST = 5
"""Maximum number of black boxes per run; a run that skips steps may have more such steps."""


@dataclass(frozen=True)
class Incident:
    """A step whose loss or gradient isn't finite.

    Attributes:
        step: optimizer steps done before.
        rank: of this process.
        batch: this process's images.
        divisors: normalisers of their losses; None: computed from the batch.
        terms: loss terms of each micro-batch.
        norm: of the gradient.
        bad_gradients: names of the parameters whose gradient isn't finite.
        causes: most likely first.
    """

    step: int
    rank: int
    batch: Batch
    divisors: Tensor | None
    terms: tuple[LossTerms, ...]
    norm: float
    bad_gradients: tuple[str, ...]
    causes: tuple[str, ...]

    def folder(self, run: RunFolder) -> Path:
        """Folder of its black box."""
        return run.blackbox / f"step-{self.step:08d}"

    def replay_command(self, run: RunFolder) -> str:
        """Command that replays the step."""
        return command("hyperfocal", "replay", self.folder(run) / f"batch-{self.rank}.pt")


def bad_gradients(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters whose gradient isn't finite."""
    named = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
    return tuple(name for name, grad in named if not bool(local(grad).isfinite().all()))


def write_black_box(
    incident: Incident, run: RunFolder, model: Detector, annotations: AnnotationSet
) -> None:
    """Save the batch as images with boxes, the loss terms, the weights and the data for a replay.

    Each process writes its own images and report; the main one also the weights before the step.

    Args:
        incident: the step.
        run: the run folder.
        model: with the weights and buffers before the step.
        annotations: the training split, for names.
    """
    folder = incident.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    batch = incident.batch.to("cpu")
    save_checkpoint(folder / f"batch-{incident.rank}.pt", _as_state(incident, batch))
    weights = full_state(model)
    if incident.rank == 0:
        save_tensors(folder / "weights.safetensors", weights)
    names = [category.name for category in annotations.categories]
    labels = [image_label(name) for name in names]
    for n, image_id in enumerate(batch.image_ids):
        draw(batch, n, labels).save(folder / f"{incident.rank}-{n}-image-{image_id}.png")
    paths = {record.id: str(record.path) for record in annotations.images}
    write_json(
        folder / f"report-{incident.rank}.json",
        {
            "step": incident.step,
            "replay": incident.replay_command(run),
            "causes": incident.causes,
            "gradient_norm": finite(incident.norm),
            "terms": [
                {name: finite(float(value)) for name, value in terms.named().items()}
                for terms in incident.terms
            ],
            "gradients_not_finite": incident.bad_gradients,
            "broken_boxes": broken_boxes(batch),
            "images": [paths.get(image_id, str(image_id)) for image_id in batch.image_ids],
            "classification": _taken_apart(model, incident.batch, names),
        },
    )


def _taken_apart(model: Detector, batch: Batch, names: Sequence[str]) -> Any:
    model.train()
    with whole(model):
        found = model.diagnose(batch)
    if found is None:
        return None
    categories = zip(names, found.categories, strict=True)
    return {
        "levels": [_finite(asdict(level)) for level in found.levels],
        "categories": [{"name": name} | _finite(asdict(row)) for name, row in categories],
    }


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: finite(v) if isinstance(v, float) else v for k, v in row.items()}


def _as_state(incident: Incident, batch: Batch) -> dict[str, Any]:
    z = incident.divisors
    return {
        "step": incident.step,
        "rank": incident.rank,
        "parts": len(incident.terms),
        "divisors": None if z is None else z.cpu(),
        "images": batch.images,
        "valid_hw": batch.valid_hw,
        "original_hw": batch.original_hw,
        "boxes": [target.boxes for target in batch.targets],
        "labels": [target.labels for target in batch.targets],
        "image_ids": list(batch.image_ids),
        "seeds": list(batch.seeds),
    }


def draw(batch: Batch, n: int, names: Sequence[Label]) -> Image.Image:
    """Image ``n`` of a batch as the network gets it, with its boxes except invalid ones."""
    height, width = batch.valid_hw[n].tolist()
    pixels = batch.images[n, :, :height, :width]
    if pixels.is_floating_point():
        pixels = (pixels.nan_to_num(0) * 255).clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    pen, target = ImageDraw.Draw(image), batch.targets[n]
    for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
        x1, y1, x2, y2 = box
        if all(map(math.isfinite, box)) and x1 <= x2 and y1 <= y2:
            pen.rectangle((x1, y1, x2, y2), outline="#d55e00", width=2)
            text, path, _ = names[label]
            font = ImageFont.truetype(path, 12)
            pen.text((x1 + 3, y1 + 2), text, fill="#d55e00", font=font)
    return image


class Replay(NamedTuple):
    """Result of replaying a step.

    Attributes:
        step: optimizer steps done before.
        image_ids: of its batch.
        gradients: loss terms, norm, and whether any isn't finite.
        bad_gradients: names of the parameters whose gradient isn't finite.
    """

    step: int
    image_ids: tuple[int, ...]
    gradients: Gradients
    bad_gradients: tuple[str, ...]


def replay(
    file: Path,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] | None = None,
    trust: Sequence[str] = (),
) -> Replay:
    """Repeat the forward and backward pass of a black box, in one process.

    Args:
        file: ``batch-RANK.pt`` of a black box inside its run folder.
        accelerator: device type; by default as in the run.
        trust: modules outside the package that the run's components may come from.

    Raises:
        HyperfocalError: a file is missing or damaged.
    """
    saved = load_checkpoint(file)
    run = RunFolder(file.resolve().parents[2])
    experiment = dataclasses.replace(run.read_experiment(trust), devices=1)
    config = dataclasses.replace(experiment.train, micro_batches=saved["parts"])
    experiment = dataclasses.replace(
        experiment, train=config, accelerator=accelerator or experiment.accelerator
    )
    trained = run.read_categories()
    fabric = launch(experiment)
    model = experiment.model.offline().build(len(trained.categories), trained.counts)
    load_weights(file.with_name("weights.safetensors"), model)
    optimizer = build_optimizer(model, config)
    forward, wrapped = fabric.setup(TrainingForward(model), optimizer)
    state = TrainState(model, optimizer, None, step=saved["step"])
    stepper = Stepper(fabric, forward, wrapped, state, config, experiment.seed)
    targets = zip(saved["boxes"], saved["labels"], strict=True)
    batch = Batch(
        saved["images"],
        saved["valid_hw"],
        saved["original_hw"],
        tuple(Target(boxes, labels) for boxes, labels in targets),
        tuple(saved["image_ids"]),
        tuple(saved.get("seeds", ())),  # older files have none
    ).to(fabric.device)
    z = saved["divisors"]
    gradients = stepper.gradients(batch, None if z is None else z.to(fabric.device), saved["rank"])
    return Replay(saved["step"], batch.image_ids, gradients, bad_gradients(model))
